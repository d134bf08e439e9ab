package command

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// roomy is what a pipe holds, in bytes, that is read once in a lull: the most that one may ask for by default
// (/proc/sys/fs/pipe-max-size). The program waits while it is full.
const roomy = 1 << 20

// unhurried reads a pipe once in a lull, so that its reader is woken for many lines at a time. It reads at once where
// more waits than there was room for, and when the program has ended or nobody listens any more.
type unhurried struct {
	file       io.Reader
	lull       time.Duration
	over, quit <-chan struct{}

	again <-chan time.Time // the end of the lull; nil: there is none
}

// unhurried gives a pipe a lull, unless that is 0.
func (s *stream) unhurried(pipe *os.File, lull time.Duration) io.Reader {
	if lull == 0 {
		return pipe
	}
	if raw, err := pipe.SyscallConn(); err == nil { // where it cannot be larger, the program waits a little now and then
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, roomy) })
	}
	return &unhurried{file: pipe, lull: lull, over: s.over, quit: s.quit}
}

func (u *unhurried) Read(into []byte) (int, error) {
	if u.again != nil {
		select {
		case <-u.again:
		case <-u.over:
		case <-u.quit:
		}
	}
	n, err := u.file.Read(into)
	u.again = nil
	if n < len(into) {
		u.again = time.After(u.lull)
	}
	return n, err
}
