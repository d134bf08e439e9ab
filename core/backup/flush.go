package backup

import (
	"cmp"
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// flushTick is the time between two looks at whether the device has written anything.
const flushTick = 5 * time.Second

// Flush has the file system of a directory write out everything that is only in memory. It returns when that is done or
// when ctx ends. It calls report at once, and then every time it sees that the device has written something. So a slow
// disk may take as long as it needs, and a disk that has stopped shows by the missing reports. A file system without a
// device of its own, such as NFS, shows no progress: whoever waits for reports gives it up when it takes longer than
// the limit between two reports.
//
// The caller opens dir before it writes anything. If the kernel has already reported a write error to another program,
// it reports the error only through descriptors that were open before that (syncfs(2)).
func Flush(ctx context.Context, dir *os.File, report func()) error {
	return flusher{unix.Syncfs, (*os.File).Close, sectorsWritten, flushTick}.flush(ctx, dir, report)
}

// unflushedWarning returns the warning of Probe's verdict for a directory whose file system, of the type fsType, does
// nothing in Flush. That is so with FUSE: what is written reaches the program that serves it when a file is closed, but
// the kernel passes syncfs(2) on for virtiofs only (fuse_sync_fs in fs/fuse/inode.c).
func unflushedWarning(dir, fsType string) []string {
	if !strings.HasPrefix(fsType, "fuse") {
		return nil
	}
	return []string{"the file system that holds " + dir + " (" + fsType + ") does not say when what is written is on a " +
		"disk: if the power fails where it lies, the last backups may be damaged"}
}

// flusher holds the system calls of Flush, which tests replace.
type flusher struct {
	syncfs         func(fd int) error
	close          func(*os.File) error
	sectorsWritten func(fd int) string // changes when the device has written something
	tick           time.Duration
}

func (f flusher) flush(ctx context.Context, dir *os.File, report func()) error {
	copied, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0) // the caller may close dir before syncfs returns
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(copied), dir.Name())
	flushed := make(chan error, 1)
	go func() { // it may outlive ctx: syncfs cannot be interrupted while the kernel waits for the device
		err := f.syncfs(copied)
		_ = f.close(file) // before flush returns, because the caller may unmount the directory at once
		flushed <- err
	}()
	tick := time.NewTicker(f.tick)
	defer tick.Stop()
	report()
	before := f.sectorsWritten(int(dir.Fd()))
	for {
		select {
		case err := <-flushed:
			return cmp.Or(ctx.Err(), err) // ctx may have ended at the same time
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if after := f.sectorsWritten(int(dir.Fd())); after != before {
			before = after
			report()
		}
	}
}

// Repeat calls report at once and then every five seconds, until stop has returned. It is for work that has a time
// limit of its own and does not report progress.
func Repeat(report func()) (stop func()) {
	report()
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(flushTick)
		defer tick.Stop()
		for {
			select {
			case <-stopping:
				return
			case <-tick.C:
				report()
			}
		}
	}()
	return func() {
		close(stopping)
		<-stopped
	}
}

// sectorsWritten returns how many sectors the device of an open directory has written since the boot
// (Documentation/block/stat.rst: write sectors). It returns "" if the file system has no device.
func sectorsWritten(fd int) string {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return ""
	}
	counters := filesystem.Counters("/sys", filesystem.DevOf(st.Dev))
	if len(counters) < 7 {
		return ""
	}
	return counters[6]
}
