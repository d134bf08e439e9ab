package journey

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
)

// LockWait is how long a run waits for another run on the same volume group, unless Run.WaitFor or Run.WaitAtMost
// changed that.
const LockWait = 2 * time.Minute

// SetLock returns the name of the lock of a set's name. Run.Lock takes it where it takes a volume group. It cannot be
// the name of a volume group, because that holds no colon (lvm(8)).
func SetLock(name string) string { return setLockPrefix + name }

const setLockPrefix = "set:"

// describe says in words what a lock is for.
func describe(lock string) string {
	if name, ok := strings.CutPrefix(lock, setLockPrefix); ok {
		return "set " + name
	}
	return "volume group " + lock
}

// owner is the content of a lock file: the process that holds the lock.
type owner struct {
	PID   int    `json:"pid"`
	What  string `json:"what"`  // what that process does, for people
	Since int64  `json:"since"` // Unix seconds
}

// locks holds the locks of one run. Each lock is a file in dir, one for each volume group and one for each name of a
// set. The files are never deleted: a process that waits for a deleted file would get its lock, while a third one locks
// a new file of the same name.
type locks struct {
	dir    string
	wait   time.Duration
	onWait func(what string) // called with what this run waits for; may be nil
	held   map[string]*lock.Lock
}

func newLocks(dir string) *locks {
	return &locks{dir: dir, wait: LockWait, held: map[string]*lock.Lock{}}
}

// lock locks those of the groups that it does not hold yet, in the order of their names, so that two runs never wait
// for each other. changed is true if another run held one of these locks after since. what says what this run does, for
// runs that wait for it.
func (l *locks) lock(ctx context.Context, groups []string, what string, since time.Time) (changed bool, err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return false, fault.New(fault.Internal, "locks: %w", err)
	}
	ordered := append([]string(nil), groups...)
	sort.Strings(ordered)
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	for _, group := range ordered {
		if l.held[group] != nil {
			continue
		}
		lastUsed, err := l.lockOne(ctx, group, what)
		if err != nil {
			return changed, err
		}
		changed = changed || lastUsed.After(since)
	}
	return changed, nil
}

// lockOne locks one group. lastUsed is when the lock was last taken or given back before; zero if it never was.
func (l *locks) lockOne(ctx context.Context, group, what string) (lastUsed time.Time, err error) {
	path := filepath.Join(l.dir, group)
	f, err := lock.File(path)
	if errors.Is(err, lock.ErrHeld) {
		if l.onWait != nil {
			l.onWait("waiting for " + ownerOf(path).What)
		}
		f, err = lock.Wait(ctx, path, lock.File)
	}
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		return lastUsed, lockedFault(path, group, l.wait)
	case errors.Is(err, context.Canceled):
		return lastUsed, fault.New(fault.Interrupted, "asked to end while waiting for %s, which uses %s", ownerOf(path).What,
			describe(group)).WithHint("nothing was changed")
	default:
		return lastUsed, fault.New(fault.Internal, "lock of %s: %w", describe(group), err)
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		lastUsed = info.ModTime()
	}
	data, _ := json.Marshal(owner{PID: os.Getpid(), What: what, Since: time.Now().Unix()})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.Release()
		return lastUsed, fault.New(fault.Internal, "lock of %s: %w", describe(group), err)
	}
	l.held[group] = f
	return lastUsed, nil
}

// WithFileLock calls do while it holds the lock of the file at path, which it creates if it is missing. No other
// process that uses the same file is in do meanwhile. It is for work that takes no longer than writing a few files. If
// the lock is not free within LockWait, do is not called, and the fault is locked.
func WithFileLock(path string, do func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.Internal, "locks: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), LockWait)
	defer cancel()
	l, err := lock.Wait(ctx, path, lock.File)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Internal, "lock of %s: %w", path, err)
	}
	if err != nil {
		return fault.New(fault.Locked, "%s has been locked by another run for %s: %w", path, LockWait, err).
			WithHint("look at it: journalctl -u 'rewind-*'")
	}
	defer l.Release()
	return do()
}

// unlock gives all locks back. It sets the time of each file, which is how lockOne knows when the lock was last used.
func (l *locks) unlock() {
	for group, f := range l.held {
		released := time.Now()
		_ = os.Chtimes(f.Path(), released, released)
		f.Release()
		delete(l.held, group)
	}
}

// ownerOf reads who holds the lock of the file at path. If that cannot be read, it has no PID.
func ownerOf(path string) owner {
	var o owner
	data, _ := os.ReadFile(path)
	if json.Unmarshal(data, &o) != nil {
		return owner{What: "another run"}
	}
	return o
}

// lockedFault is the fault for a lock that another run still holds after waited.
func lockedFault(path, group string, waited time.Duration) error {
	o := ownerOf(path)
	if o.PID == 0 {
		return fault.New(fault.Locked, "%s is locked by another run; waited %s", describe(group), waited)
	}
	return fault.New(fault.Locked, "%s is in use by %s (pid %d) since %s; waited %s",
		describe(group), o.What, o.PID, time.Unix(o.Since, 0).Format(time.RFC3339), waited).
		With("lock", o).
		WithHint("wait for it, or look at it: journalctl -u 'rewind-*' and ps %d", o.PID)
}
