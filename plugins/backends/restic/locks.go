package restic

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/proc"
)

// repositoryLock is a lock in the repository, as `restic cat lock` prints it.
type repositoryLock struct {
	Time     time.Time `json:"time"`
	Hostname string    `json:"hostname"`
	PID      int       `json:"pid"`
}

// freshLock is the age up to which `restic unlock` certainly keeps the lock of another host. restic itself removes
// locks that are older than 30 minutes (internal/restic/lock.go, staleLockTimeout). A restic that is alive renews its
// lock every 5 minutes.
const freshLock = 20 * time.Minute

// settleLocks calls `restic unlock` if a restic of this host that has ended left a lock, and no lock of a restic that
// may be at work is removed with it.
func (t *tool) settleLocks(ctx context.Context) error {
	ended := t.notes().endedProcesses()
	if len(ended) == 0 {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		return fault.New(fault.Internal, "ask for this host's name: %w", err)
	}
	locks, err := t.locks(ctx)
	if err != nil {
		return err
	}
	isOwn := func(l repositoryLock) bool {
		return slices.ContainsFunc(ended, func(n noted) bool { return n.locked(l, host) })
	}
	if slices.ContainsFunc(locks, isOwn) {
		endangers := func(l repositoryLock) bool { return endangeredByUnlock(l, host, isOwn(l)) }
		if slices.ContainsFunc(locks, endangers) {
			return nil
		}
		if _, err := t.call(ctx, "remove stale locks", "unlock"); err != nil {
			return err
		}
	}
	for _, n := range ended {
		_ = durable.Remove(n.path) // if it stays, the next call looks again
	}
	return nil
}

// endangeredByUnlock reports whether `restic unlock` must not be called because of lock l. It removes every lock that
// is older than 30 minutes by this host's clock, whoever made it. Of each lock with this host's name it asks by a
// SIGHUP whether the process is alive on this host, and removes the lock if not. But it may be alive on another machine
// of this name, and a process of that id that is no restic is ended by the signal. isOwn says that a restic of this
// host that has ended made the lock.
func endangeredByUnlock(l repositoryLock, host string, isOwn bool) bool {
	if l.Hostname == host {
		s, found := proc.Find(l.PID)
		isAlive := found && s.IsAlive()
		if isAlive && !isRestic(l.PID) || !isAlive && !isOwn {
			return true
		}
	}
	return !isOwn && time.Since(l.Time) > freshLock && !isClockSynchronized()
}

// isRestic reports whether the process runs restic, which ignores SIGHUP.
func isRestic(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "restic"
}

// locks returns the locks in the repository.
func (t *tool) locks(ctx context.Context) ([]repositoryLock, error) {
	listed, err := t.Run(ctx, t.cmd("--no-lock", "list", "locks"))
	if err != nil {
		return nil, t.explain("list the locks", err)
	}
	var locks []repositoryLock
	for _, id := range strings.Fields(listed.Stdout) {
		printed, err := t.Run(ctx, t.cmd("--no-lock", "cat", "lock", id))
		if err != nil {
			continue // its owner has removed or renewed it meanwhile, so it is at work
		}
		var l repositoryLock
		if err := json.Unmarshal([]byte(printed.Stdout), &l); err != nil {
			return nil, fault.New(fault.Internal, "restic cat lock %s: %w", id, err)
		}
		locks = append(locks, l)
	}
	return locks, nil
}

// isClockSynchronized reports whether the kernel holds the clock for right: whether a time service keeps it, and nobody
// has set it since (adjtimex(2), STA_UNSYNC).
var isClockSynchronized = func() bool {
	state, err := unix.Adjtimex(&unix.Timex{})
	return err == nil && state != unix.TIME_ERROR
}
