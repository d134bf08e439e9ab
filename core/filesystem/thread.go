package filesystem

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Private runs fn on a thread with a mount namespace of its own. What fn mounts is seen by fn and by the programs it
// starts, and by no one else; it is gone when fn has returned and the last of those programs has ended, even after a
// SIGKILL. What is unmounted outside meanwhile is unmounted there too.
//
// fn must do its mounting, and start its programs, on the goroutine it is called on. Descriptors that it opens can be
// used everywhere. Fault: not_root.
func Private(fn func() error) error {
	return elsewhere(func() error { return inPrivate(fn) })
}

// elsewhere runs fn on a thread that ends with it, and waits.
func elsewhere(fn func() error) error {
	result := make(chan error, 1)
	go ownThread(func() { result <- fn() })
	return <-result
}

// ownThread runs f on a thread that ends with it. The main thread cannot end, and what it sees of the system is what
// /proc/self shows: if this goroutine happens to run there, another one gets f.
func ownThread(f func()) {
	runtime.LockOSThread() // never unlocked, so that the runtime ends the thread
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	begun := make(chan struct{})
	go ownThread(func() {
		close(begun)
		f()
	})
	<-begun
	runtime.UnlockOSThread()
}

func inPrivate(fn func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fault.New(fault.NotRoot, "a mount namespace of its own: %w", err).WithHint("it takes root (CAP_SYS_ADMIN)")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fault.New(fault.Internal, "make the mounts private: %w", err)
	}
	return fn()
}

// Space is a mount namespace that lasts: programs can be started in it, and things be mounted for them later. What is
// mounted and unmounted outside is mounted and unmounted there too, below what was mounted in it. It is gone, with all
// mounts in it, when it is closed, or this process is killed, and the last program in it has ended.
type Space struct{ file *os.File }

// NewSpace makes one that shows what the caller sees. It must be closed. Faults: not_root, internal.
func NewSpace() (*Space, error) {
	s := &Space{}
	err := Private(func() (err error) {
		if s.file, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
			return fault.New(fault.Internal, "a mount namespace of its own: %w", err)
		}
		return nil
	})
	return s, err
}

// Do runs fn in it, on a thread that ends with fn; what Private says of fn holds here too.
func (s *Space) Do(fn func() error) error {
	return elsewhere(func() error { return s.enter(fn) })
}

func (s *Space) enter(fn func() error) error {
	// Threads share their working directory, and one that shares it cannot go elsewhere (setns(2)).
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		err = unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNS)
	}
	if err != nil {
		return fault.New(fault.NotRoot, "enter a mount namespace: %w", err).WithHint("it takes root (CAP_SYS_ADMIN)")
	}
	return fn()
}

// Close lets go of it.
func (s *Space) Close() error { return s.file.Close() }
