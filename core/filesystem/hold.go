package filesystem

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// fsFreeze is the freeze of one file system, from its beginning to the thaw. FIFREEZE blocks for as long as the disk
// does and cannot be cancelled. So the last of the two calls ends it: thaw if the freeze has returned, else freeze when
// it returns after thaw was called.
type fsFreeze struct {
	points []string
	dir    *os.File
	mark   freezeMark
	ioctl  func(*os.File, uint) error // replaces the function ioctl in tests; may be nil

	mu       sync.Mutex
	freezing bool   // FIFREEZE is under way
	frozen   bool   // by this fsFreeze
	released bool   // thawed, or to be thawed as soon as FIFREEZE returns
	thawedBy string // what ended the freeze before thaw was called; empty: nothing did
	thawErr  error  // of the thaw that was made before thaw was called
}

func (fs *fsFreeze) name() string { return strings.Join(fs.points, ", ") }

func (fs *fsFreeze) callIoctl(request uint) error {
	if fs.ioctl != nil {
		return fs.ioctl(fs.dir, request)
	}
	return ioctl(fs.dir, request)
}

// sync writes out dirty pages while programs can still write.
func (fs *fsFreeze) sync() error {
	conn, err := fs.dir.SyscallConn()
	if err != nil {
		return fault.New(fault.Internal, "sync %s: %w", fs.name(), err)
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.Syncfs(int(fd)) }); err != nil {
		return fault.New(fault.Interrupted, "sync %s: %w", fs.name(), err)
	}
	if failed != nil {
		return fault.New(fault.Internal, "sync %s: %w", fs.name(), failed)
	}
	return nil
}

func (fs *fsFreeze) freeze() error {
	fs.mu.Lock()
	if fs.released {
		fs.mu.Unlock()
		return fault.New(fault.Interrupted, "freeze of %s called off", fs.name())
	}
	if err := fs.mark.set(); err != nil {
		fs.mu.Unlock()
		return err
	}
	fs.freezing = true
	fs.mu.Unlock()

	err := fs.callIoctl(fiFreeze)
	if err != nil {
		fs.mark.clear()
	}

	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.freezing = false
	fs.frozen = err == nil
	if fs.released { // the caller has given up on this freeze
		fs.thawErr = fs.finish()
	}
	return freezeFault(fs.name(), err)
}

func freezeFault(name string, err error) error {
	switch err {
	case nil:
		return nil
	case unix.EBUSY:
		return frozenByAnother(name)
	case unix.EOPNOTSUPP, unix.ENOTTY:
		return fault.New(fault.Unsupported, "%s: its file system cannot be frozen", name)
	case unix.EPERM:
		return fault.New(fault.NotRoot, "freeze %s: %w", name, err)
	}
	return fault.New(fault.Internal, "freeze %s: %w", name, err)
}

// frozenByAnother returns the fault busy for a file system that another program has frozen.
func frozenByAnother(name string) error {
	return fault.New(fault.Busy, "another program holds %s frozen", name).
		WithHint("wait until it has thawed it: agents of virtual machines and of storage freeze file systems for their "+
			"own snapshots. "+
			"If it never will: fsfreeze -u %s", name)
}

// ErrFreezing means that a freeze has not returned in time and cannot be cancelled: the file system may still freeze,
// and must be thawed then. This process thaws it if it still lives then; after its death ThawMount does.
var ErrFreezing = errors.New("its freeze is still under way, and is undone when it comes back")

// thaw thaws the file system, at once or when its FIFREEZE returns.
func (fs *fsFreeze) thaw() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.released && !fs.freezing {
		if fs.thawErr != nil {
			return fs.thawErr
		}
		return fs.thawedEarly()
	}
	fs.released = true
	if fs.freezing {
		return fault.New(fault.FreezeTimeout, "%s: %w", fs.name(), ErrFreezing)
	}
	return fs.finish()
}

// expire thaws the file system when the limit has passed or the context has ended.
func (fs *fsFreeze) expire() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.released {
		return
	}
	fs.released = true
	fs.thawErr = fs.finish()
	if fs.thawErr == nil {
		fs.thawedBy = "the time limit"
	}
}

// finish thaws a file system that is released and whose FIFREEZE is not under way. The caller holds fs.mu.
func (fs *fsFreeze) finish() error {
	defer fs.dir.Close()
	if !fs.frozen {
		return nil
	}
	fs.frozen = false
	err := fs.callIoctl(fiThaw)
	if err == nil || err == unix.EINVAL {
		fs.mark.clear()
	}
	if err == unix.EINVAL { // not frozen: another program has thawed it
		fs.thawedBy = "another program"
		return fs.thawedEarly()
	}
	if err != nil {
		return fault.New(fault.Internal, "thaw %s: %w", fs.name(), err).WithHint("fsfreeze -u %s", fs.name())
	}
	return nil
}

// thawedEarly returns the fault freeze_timeout if the file system was thawed before thaw was called, else nil.
func (fs *fsFreeze) thawedEarly() error {
	if fs.thawedBy == "" {
		return nil
	}
	return fault.New(fault.FreezeTimeout, "%s was thawed by %s before its time", fs.name(), fs.thawedBy)
}

// ioctl calls FIFREEZE or FITHAW. A signal of Go's scheduler may interrupt FIFREEZE before it has frozen anything
// (EINTR); then ioctl calls it again.
func ioctl(dir *os.File, request uint) error {
	defer runtime.KeepAlive(dir)
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), uintptr(request), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}
