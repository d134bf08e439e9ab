package backup

import (
	"cmp"
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// flushTick is how often it is looked whether the device has written anything.
const flushTick = 5 * time.Second

// Flush has the file system that holds a directory write out all that is only in memory, and returns when it has, or at
// the end of ctx. It calls report at first, and whenever its device was seen to have written something since: a slow
// disk takes as long as it takes, and one that has stopped is found out by the silence. Of a file system without a
// device of its own, such as NFS, nothing is seen: it is given up when it takes longer than silence may last.
//
// The directory is to be opened before the first write. A write error that the kernel has told another program by then,
// it tells nobody who comes later (syncfs(2)).
func Flush(ctx context.Context, dir *os.File, report func()) error {
	return flusher{unix.Syncfs, (*os.File).Close, written, flushTick}.flush(ctx, dir, report)
}

// flusher is the kernel's part of it, for tests to play.
type flusher struct {
	sync    func(fd int) error
	close   func(*os.File) error
	written func(fd int) string // changes when the device has written something
	tick    time.Duration
}

func (f flusher) flush(ctx context.Context, dir *os.File, report func()) error {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0) // the caller may close its own while the kernel waits
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), dir.Name())
	flushed := make(chan error, 1)
	go func() { // it cannot be ended: the kernel waits for the device
		err := f.sync(fd)
		_ = f.close(file) // before the caller knows: it may unmount the directory at once
		flushed <- err
	}()
	tick := time.NewTicker(f.tick)
	defer tick.Stop()
	report()
	seen := f.written(int(dir.Fd()))
	for {
		select {
		case err := <-flushed:
			return cmp.Or(ctx.Err(), err) // both may have come at once
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if now := f.written(int(dir.Fd())); now != seen {
			seen = now
			report()
		}
	}
}

// Repeat calls report at once, and every few seconds until stop has returned: for what has a limit of its own, and is
// silent.
func Repeat(report func()) (stop func()) {
	report()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(flushTick)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				report()
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// written is how many sectors the device of a directory has written since the boot; "" where it has no device
// (Documentation/block/stat.rst: write sectors).
func written(fd int) string {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return ""
	}
	counters := filesystem.Counters("/sys", filesystem.NewDev(int(unix.Major(st.Dev)), int(unix.Minor(st.Dev))))
	if len(counters) < 7 {
		return ""
	}
	return counters[6]
}
