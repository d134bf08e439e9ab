package command_test

import (
	"io"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
)

// seen remembers when it was read, and has a byte to say each time.
type seen []time.Time

func (s *seen) Read(into []byte) (int, error) {
	*s = append(*s, time.Now())
	return copy(into, "a"), nil
}

func read(t *testing.T, r io.Reader, room int) {
	t.Helper()
	if n, err := r.Read(make([]byte, room)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

func TestUnhurried(t *testing.T) {
	const lull = 10 * time.Millisecond
	var pipe seen
	r := command.Unhurried(&pipe, lull, nil, nil)
	read(t, r, 2)
	read(t, r, 2)
	if apart := pipe[1].Sub(pipe[0]); apart < lull {
		t.Errorf("read again after %v", apart)
	}
}

func TestUnhurriedDoesNotWait(t *testing.T) {
	never, closed := make(chan struct{}), make(chan struct{})
	close(closed)
	tests := []struct {
		name       string
		room       int
		over, quit <-chan struct{}
	}{
		{"for more than it had room for", 1, never, never},
		{"for a program that has ended", 2, closed, never},
		{"when nobody listens", 2, never, closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := command.Unhurried(new(seen), time.Hour, tt.over, tt.quit)
			read(t, r, tt.room)
			read(t, r, tt.room)
		})
	}
}
