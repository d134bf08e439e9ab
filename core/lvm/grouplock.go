package lvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// lockDir is the directory of LVM's lock files for volume groups, unless global/locking_dir in lvm.conf names another
// one (file_locking.c).
const lockDir = "/run/lock/lvm"

// AwaitUnlocked waits until no other LVM command works on the volume groups, at most for limit. Another command may
// begin as soon as it returns. Fault: locked.
func (l *LVM) AwaitUnlocked(ctx context.Context, groups []string, limit time.Duration) error {
	locks, err := l.lockGroups(ctx, groups, limit)
	if err != nil {
		return err
	}
	locks.Release()
	return nil
}

// lockGroups takes LVM's own locks of volume groups, so that every LVM command that would change one of them waits. The
// locks end with this process. Where LVM keeps its locks in another directory, lockGroups keeps no command from
// working. Take then refuses a snapshot whose table such a command made live too early, and an origin that it resumed.
func lockGroups(ctx context.Context, groups []string, limit time.Duration) (Locks, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var locks Locks
	locks.Release = func() {
		for _, f := range locks.Files {
			_ = f.Close()
		}
	}
	if _, err := os.Stat(lockDir); err != nil {
		return locks, nil
	}
	for _, group := range groups {
		f, err := lockGroup(ctx, filepath.Join(lockDir, "V_"+group))
		if err != nil {
			locks.Release()
			return Locks{}, hostLocks.fault(err, group, limit)
		}
		locks.Files = append(locks.Files, f)
	}
	return locks, nil
}

// fault is why the lock of a group was not taken: locked at the limit, interrupted, or what the file system says.
func (files lockFiles) fault(err error, group string, limit time.Duration) error {
	path := filepath.Join(files.dir, "V_"+group)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Locked, "another LVM command has kept the lock of volume group %s for %s%s", group, limit,
			files.holders(path)).
			WithHint("fuser -v %s shows it; wait for its end, do not kill it in the middle of a change; then run the same "+
				"task again", path)
	case errors.Is(err, context.Canceled):
		return fault.New(fault.Interrupted, "asked to end while waiting for LVM's lock of volume group %s", group)
	}
	return fault.New(fault.Unwritable, "LVM's lock of volume group %s: %w", group, err).
		WithHint("LVM makes its lock files in %s at each command: make room there, or mount it writable", files.dir)
}

// lockGroup takes one lock. LVM removes the lock file when it releases the lock, so a lock counts only if the file that
// was locked is still the one at path.
func lockGroup(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && hasName(f, path) {
			return f, nil
		}
		_ = f.Close()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C: // flock(2) has no timeout, so it is tried again and again
		}
	}
}

// hasName reports whether f is the file that path names now.
func hasName(f *os.File, path string) bool {
	opened, err1 := f.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}
