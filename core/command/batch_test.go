package command_test

import (
	"io"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
)

// readTimes is a reader that records the time of each Read. Each Read returns one byte.
type readTimes []time.Time

func (r *readTimes) Read(buffer []byte) (int, error) {
	*r = append(*r, time.Now())
	return copy(buffer, "a"), nil
}

// readByte reads one byte into a buffer of this size.
func readByte(t *testing.T, r io.Reader, size int) {
	t.Helper()
	if n, err := r.Read(make([]byte, size)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

func TestBatchReaderPausesBetweenReads(t *testing.T) {
	const delay = 10 * time.Millisecond
	var pipe readTimes
	r := command.BatchReader(&pipe, delay, nil, nil)
	readByte(t, r, 2)
	readByte(t, r, 2)
	if pause := pipe[1].Sub(pipe[0]); pause < delay {
		t.Errorf("the next read was after %v", pause)
	}
}

func TestBatchReaderDoesNotPause(t *testing.T) {
	never, closed := make(chan struct{}), make(chan struct{})
	close(closed)
	tests := []struct {
		name            string
		size            int
		exited, stopped <-chan struct{}
	}{
		{"if the buffer was filled", 1, never, never},
		{"if the program has exited", 2, closed, never},
		{"if the reader is stopped", 2, never, closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := command.BatchReader(new(readTimes), time.Hour, tt.exited, tt.stopped)
			readByte(t, r, tt.size)
			readByte(t, r, tt.size)
		})
	}
}
