package command

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// batchPipeSize is the size in bytes of a pipe that is read in batches. It is the largest size that an unprivileged
// process may set by default (/proc/sys/fs/pipe-max-size). A program that writes to a full pipe is blocked.
const batchPipeSize = 1 << 20

// batchReader reads a pipe, with a pause of delay after each read that emptied the pipe, so that the next read returns
// many lines at once. It does not pause if a read filled the buffer, because the pipe may hold more. A pause ends early
// when the program has exited or when stopped is closed.
type batchReader struct {
	pipe            io.Reader
	delay           time.Duration
	exited, stopped <-chan struct{}

	pause <-chan time.Time // receives a value at the end of the pause; nil if there is no pause
}

// batched returns a reader of pipe that reads in batches (see Cmd.MaxDelay). If delay is 0, it returns pipe itself.
func (s *stream) batched(pipe *os.File, delay time.Duration) io.Reader {
	if delay == 0 {
		return pipe
	}
	if raw, err := pipe.SyscallConn(); err == nil {
		// An error is ignored: with a smaller pipe the program is only blocked more often.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, batchPipeSize) })
	}
	return &batchReader{pipe: pipe, delay: delay, exited: s.exited, stopped: s.stopped}
}

// Read reads from the pipe after the pause.
func (b *batchReader) Read(buffer []byte) (int, error) {
	if b.pause != nil {
		select {
		case <-b.pause:
		case <-b.exited:
		case <-b.stopped:
		}
	}
	n, err := b.pipe.Read(buffer)
	b.pause = nil
	if n < len(buffer) {
		b.pause = time.After(b.delay)
	}
	return n, err
}
