package filesystem

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// InPrivateNamespace runs fn on a thread with a mount namespace of its own. Only fn and the programs that it starts see
// what fn mounts. These mounts are gone when fn has returned and the last of the programs has ended, even after a
// SIGKILL. What is unmounted outside meanwhile is unmounted in this namespace too.
//
// fn must mount and start programs on the goroutine on which it is called. Descriptors that it opens can be used on
// every goroutine. InPrivateNamespace returns the error of fn, or a fault: not_root, internal.
func InPrivateNamespace(fn func() error) error {
	return waitOnOwnThread(func() error { return inPrivateNamespace(fn) })
}

// waitOnOwnThread runs fn on a thread that ends with fn, and waits for it.
func waitOnOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go onOwnThread(func() { result <- fn() })
	return <-result
}

// onOwnThread runs f on a thread that ends with f. The main thread cannot end, and /proc/self shows the system as the
// main thread sees it. So if this goroutine happens to run on the main thread, f runs on another goroutine.
func onOwnThread(f func()) {
	runtime.LockOSThread() // never unlocked, so that the runtime ends the thread
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	begun := make(chan struct{})
	go onOwnThread(func() {
		close(begun)
		f()
	})
	<-begun
	runtime.UnlockOSThread()
}

func inPrivateNamespace(fn func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fault.New(fault.NotRoot, "a mount namespace of its own: %w", err).WithHint("it takes root (CAP_SYS_ADMIN)")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fault.New(fault.Internal, "make the mounts private: %w", err)
	}
	return fn()
}

// Space is a lasting mount namespace: programs can be started in it, and file systems can be mounted for them later.
// What is mounted or unmounted outside is mounted or unmounted in it too, but underneath what was mounted inside. The
// namespace, with all its mounts, is gone when it is closed or this process is killed, and the last program in it has
// ended.
type Space struct{ file *os.File }

// NewSpace makes a Space that shows what the caller sees. The caller must close it. Faults: not_root, internal.
func NewSpace() (*Space, error) {
	s := &Space{}
	err := InPrivateNamespace(func() (err error) {
		if s.file, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
			return fault.New(fault.Internal, "a mount namespace of its own: %w", err)
		}
		return nil
	})
	return s, err
}

// Do runs fn in the namespace, on a thread that ends with fn. The conditions on the fn of Private hold here too. Do
// returns the error of fn, or the fault not_root.
func (s *Space) Do(fn func() error) error {
	return waitOnOwnThread(func() error { return s.runInside(fn) })
}

func (s *Space) runInside(fn func() error) error {
	// Threads share their working directory, and a thread that shares it cannot enter a mount namespace (setns(2)).
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		err = unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNS)
	}
	if err != nil {
		return fault.New(fault.NotRoot, "enter a mount namespace: %w", err).WithHint("it takes root (CAP_SYS_ADMIN)")
	}
	return fn()
}

// Close gives up this process's handle on the namespace. Programs in it keep it.
func (s *Space) Close() error { return s.file.Close() }
