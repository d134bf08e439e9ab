// Package lock locks files and directories among processes, with flock(2). A lock ends when it is released, or when
// this process ends.
package lock

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// ErrHeld is the error for a lock that another process holds.
var ErrHeld = errors.New("another process holds the lock")

// pollInterval is how often Wait tries again: flock(2) has no time limit.
const pollInterval = 50 * time.Millisecond

// Lock is a lock that this process holds.
type Lock struct{ file *flock.Flock }

// Shared locks a file or directory that exists, for those that only read what it stands for. Others may hold shared
// locks at the same time. Errors: ErrHeld, fs.ErrNotExist, and what the file system says.
func Shared(path string) (*Lock, error) {
	f := flock.New(path, flock.SetFlag(os.O_RDONLY))
	return held(f, f.TryRLock)
}

// Exclusive locks a file or directory that exists, for one that changes or removes what it stands for. On NFS, where a
// file must be open for writing for that, it is opened so. Errors: as of Shared.
func Exclusive(path string) (*Lock, error) {
	f := flock.New(path, flock.SetFlag(os.O_RDONLY))
	return held(f, f.TryLock)
}

// File locks a file that is there for nothing but to be locked, exclusively. It is made, with mode 0600, if it does not
// exist, and never opened through a symbolic link. Errors: ErrHeld, and what the file system says.
func File(path string) (*Lock, error) {
	f := flock.New(path, flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW))
	return held(f, f.TryLock)
}

func held(f *flock.Flock, try func() (bool, error)) (*Lock, error) {
	ok, err := try()
	if err == nil && !ok {
		err = ErrHeld
	}
	if err != nil {
		return nil, err
	}
	return &Lock{f}, nil
}

// Wait takes the lock of path by take, which is one of the above, as soon as no other process holds it. If ctx ends
// before, it returns ctx's error.
func Wait(ctx context.Context, path string, take func(string) (*Lock, error)) (*Lock, error) {
	for {
		l, err := take(path)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// Path returns the path of what is locked.
func (l *Lock) Path() string { return l.file.Path() }

// Stat describes what is locked, which need not be at its path any more.
func (l *Lock) Stat() (os.FileInfo, error) { return l.file.Stat() }

// Release releases the lock. It unlocks before it closes: a child between fork and exec still has a copy of the
// descriptor, which would keep the lock.
func (l *Lock) Release() { _ = l.file.Unlock() }
