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

// hold is one file system on its way into a freeze and out of it. FIFREEZE
// blocks for as long as the disk does and cannot be called off, so whoever
// comes last settles it: thaw if the freeze is over, else the freeze itself
// when it comes back.
type hold struct {
	points []string
	dir    *os.File
	mark   mark
	ioctl  func(*os.File, uint) error // nil: the real one

	mu       sync.Mutex
	freezing bool   // FIFREEZE is under way
	frozen   bool   // by us
	released bool   // thawed, or to be thawed as soon as the freeze comes back
	lost     string // who ended the freeze before thaw was called; empty: nobody
}

func (h *hold) name() string { return strings.Join(h.points, ", ") }

func (h *hold) call(request uint) error {
	if h.ioctl != nil {
		return h.ioctl(h.dir, request)
	}
	return ioctl(h.dir, request)
}

// sync writes dirty pages out while writers may still go on.
func (h *hold) sync() error {
	conn, err := h.dir.SyscallConn()
	if err != nil {
		return fault.New(fault.Internal, "sync %s: %w", h.name(), err)
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.Syncfs(int(fd)) }); err != nil {
		return fault.New(fault.Interrupted, "sync %s: %w", h.name(), err)
	}
	if failed != nil {
		return fault.New(fault.Internal, "sync %s: %w", h.name(), failed)
	}
	return nil
}

func (h *hold) freeze() error {
	h.mu.Lock()
	if h.released {
		h.mu.Unlock()
		return fault.New(fault.Interrupted, "freeze of %s called off", h.name())
	}
	if err := h.mark.set(); err != nil {
		h.mu.Unlock()
		return err
	}
	h.freezing = true
	h.mu.Unlock()

	err := h.call(fiFreeze)
	if err != nil {
		h.mark.clear()
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.freezing = false
	h.frozen = err == nil
	if h.released { // nobody waits for this freeze any more
		_ = h.finish()
	}
	return freezeFault(h.name(), err)
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

// frozenByAnother says that a file system is frozen, and not by this program.
func frozenByAnother(name string) error {
	return fault.New(fault.Busy, "another program holds %s frozen", name).
		WithHint("wait until it has thawed it: agents of virtual machines and of storage freeze file systems for their "+
			"own snapshots. "+
			"If it never will: fsfreeze -u %s", name)
}

// ErrFreezing says that a freeze can be neither awaited nor called off: the file system may freeze later, and must be
// thawed then. This process does so, if it lives to see it; ThawMount does it after its end.
var ErrFreezing = errors.New("its freeze is still under way, and is undone when it comes back")

// thaw releases the file system: now, or when its freeze comes back.
func (h *hold) thaw() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released && !h.freezing {
		return h.verdict()
	}
	h.released = true
	if h.freezing {
		return fault.New(fault.FreezeTimeout, "%s: %w", h.name(), ErrFreezing)
	}
	return h.finish()
}

// expire is thaw at the end of the limit or of the context.
func (h *hold) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return
	}
	h.released = true
	_ = h.finish()
	h.lost = "the time limit"
}

// finish ends a hold that is released and not freezing. The caller has the lock.
func (h *hold) finish() error {
	defer h.dir.Close()
	if !h.frozen {
		return nil
	}
	h.frozen = false
	err := h.call(fiThaw)
	if err == nil || err == unix.EINVAL {
		h.mark.clear()
	}
	if err == unix.EINVAL { // not frozen: another fsfreeze -u was faster
		h.lost = "another program"
		return h.verdict()
	}
	if err != nil {
		return fault.New(fault.Internal, "thaw %s: %w", h.name(), err).WithHint("fsfreeze -u %s", h.name())
	}
	return nil
}

func (h *hold) verdict() error {
	if h.lost == "" {
		return nil
	}
	return fault.New(fault.FreezeTimeout, "%s was thawed by %s before its time", h.name(), h.lost)
}

// ioctl calls FIFREEZE or FITHAW. A signal of the Go scheduler may interrupt
// the first one before it froze anything (EINTR), and then it is called again.
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
