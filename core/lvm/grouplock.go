package lvm

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// lockDir is where LVM locks volume groups, unless global/locking_dir in
// lvm.conf says otherwise (file_locking.c).
const lockDir = "/run/lock/lvm"

// AwaitUnlocked waits until no other LVM command works on volume groups, at most
// for limit. One may begin right after it. Fault: locked.
func (l *LVM) AwaitUnlocked(ctx context.Context, groups []string, limit time.Duration) error {
	locks, err := l.lock(ctx, groups, limit)
	if err != nil {
		return err
	}
	locks.Release()
	return nil
}

// lockGroups takes LVM's own locks of volume groups: an LVM command that would
// change one waits. They end with this process. Where LVM locks elsewhere this
// holds nobody back: Take refuses a snapshot whose table such a command has made
// live before, and an origin that it resumed.
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
			return Locks{}, fault.New(fault.Locked, "another LVM command has kept the lock of volume group %s for %s", group, limit).
				WithHint("fuser -v %s shows it; wait for its end, do not kill it in the middle of a change; then run the same task again",
					filepath.Join(lockDir, "V_"+group))
		}
		locks.Files = append(locks.Files, f)
	}
	return locks, nil
}

// lockGroup takes one lock. LVM removes the file when it lets go of it, so the
// lock counts only if the file still has its name.
func lockGroup(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, path) {
			return f, nil
		}
		_ = f.Close()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C: // flock(2) with a limit does not exist
		}
	}
}

func sameFile(f *os.File, path string) bool {
	opened, err1 := f.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}
