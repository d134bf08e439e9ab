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

	"github.com/gofrs/flock"

	"go.pcc.com/rewind/core/fault"
)

// LockWait is how long a journey waits for another one on the same volume group.
const LockWait = 2 * time.Minute

// SetLock is the lock of a set's name, which is taken like that of a volume group. No group's name holds a colon
// (lvm(8)).
func SetLock(name string) string { return setLock + name }

const setLock = "set:"

// locked says what a lock is for.
func locked(lock string) string {
	if name, ok := strings.CutPrefix(lock, setLock); ok {
		return "set " + name
	}
	return "volume group " + lock
}

// lockPoll is how often a held lock is tried again: flock(2) has no wait with a limit.
const lockPoll = 100 * time.Millisecond

// owner is what a lock file says of who holds it.
type owner struct {
	PID   int    `json:"pid"`
	What  string `json:"what"`
	Since int64  `json:"since"` // Unix seconds
}

// locks are the locks a journey holds, one file for each volume group and for the name of a set. The files are never
// deleted: another process may be waiting on the one just unlinked.
type locks struct {
	dir  string
	wait time.Duration
	tell func(what string) // that we wait, and for whom; may be nil
	held map[string]*flock.Flock
}

func newLocks(dir string) *locks {
	return &locks{dir: dir, wait: LockWait, held: map[string]*flock.Flock{}}
}

// take locks the groups that are not held yet, in the order of their names so that two journeys never wait for each
// other. changed says that somebody else held one of them after the time given.
func (l *locks) take(ctx context.Context, groups []string, what string, since time.Time) (changed bool, err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return false, fault.New(fault.Internal, "locks: %w", err)
	}
	sorted := append([]string(nil), groups...)
	sort.Strings(sorted)
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	for _, group := range sorted {
		if l.held[group] != nil {
			continue
		}
		touched, err := l.takeOne(ctx, group, what)
		if err != nil {
			return changed, err
		}
		changed = changed || touched.After(since)
	}
	return changed, nil
}

// takeOne returns the time the lock was last taken or given back.
func (l *locks) takeOne(ctx context.Context, group, what string) (touched time.Time, err error) {
	path := filepath.Join(l.dir, group)
	f := flock.New(path, flock.SetPermissions(0o600))
	ok, err := f.TryLock()
	if !ok && err == nil {
		if l.tell != nil {
			l.tell("waiting for " + ownerOf(path).What)
		}
		ok, err = f.TryLockContext(ctx, lockPoll)
	}
	if !ok {
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return touched, fault.New(fault.Internal, "lock of %s: %w", locked(group), err)
		}
		return touched, lockedBy(path, group, l.wait)
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		touched = info.ModTime()
	}
	data, _ := json.Marshal(owner{PID: os.Getpid(), What: what, Since: time.Now().Unix()})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.Close()
		return touched, fault.New(fault.Internal, "lock of %s: %w", locked(group), err)
	}
	l.held[group] = f
	return touched, nil
}

// Alone does something while no other process does what has the same lock file. It is for what takes no longer than
// writing a few files: the wait has LockWait as its limit.
func Alone(path string, do func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.Internal, "locks: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), LockWait)
	defer cancel()
	f := flock.New(path, flock.SetPermissions(0o600))
	if _, err := f.TryLockContext(ctx, lockPoll); err != nil {
		return fault.New(fault.Locked, "%s has been locked by another journey for %s: %w", path, LockWait, err).
			WithHint("look at it: journalctl -u 'rewind-*'")
	}
	defer f.Close()
	return do()
}

func (l *locks) release() {
	for group, f := range l.held {
		now := time.Now()
		_ = os.Chtimes(f.Path(), now, now)
		_ = f.Close()
		delete(l.held, group)
	}
}

// ownerOf reads who holds a lock; empty where that cannot be read.
func ownerOf(path string) owner {
	var o owner
	data, _ := os.ReadFile(path)
	if json.Unmarshal(data, &o) != nil {
		return owner{What: "another journey"}
	}
	return o
}

func lockedBy(path, group string, waited time.Duration) error {
	o := ownerOf(path)
	if o.PID == 0 {
		return fault.New(fault.Locked, "%s is locked by another run; waited %s", locked(group), waited)
	}
	return fault.New(fault.Locked, "%s is in use by %s (pid %d) since %s; waited %s",
		locked(group), o.What, o.PID, time.Unix(o.Since, 0).Format(time.RFC3339), waited).
		With("lock", o).
		WithHint("wait for it, or look at it: journalctl -u 'rewind-*' and ps %d", o.PID)
}
