package command

import (
	"io"
	"time"
)

// lull is how long what a program says may wait for what it says next. rsync says a line for each file: to be woken for
// each cost a tenth of the processor time that the copying took.
const lull = 50 * time.Millisecond

// unhurried reads a pipe once in a lull, so that its reader is woken for many lines at a time. It reads at once where
// more waits than there was room for, and when the program has ended or nobody listens any more.
type unhurried struct {
	file       io.Reader
	lull       time.Duration
	over, quit <-chan struct{}

	again <-chan time.Time // the end of the lull; nil: there is none
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
