package restic

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

// settleLocks calls `restic unlock`, which removes the locks of ended programs of this host, and every lock that is
// older than 30 minutes by this host's clock, whoever made it. If the clock ran ahead, that would be the locks of all
// hosts that are at work, and a `restic prune` could then remove what they store. So unless the clock is known to be
// right, `restic unlock` is only called if it can remove nothing but what ended programs of this host have left.
func (t *tool) settleLocks(ctx context.Context) error {
	if !isClockSynchronized() {
		if only, err := t.onlyOwnLocksAreStale(ctx); err != nil || !only {
			return err
		}
	}
	_, err := t.call(ctx, "remove stale locks", "unlock")
	return err
}

// onlyOwnLocksAreStale reports whether programs of this host that have ended left locks in the repository, and
// `restic unlock` would remove no other lock.
func (t *tool) onlyOwnLocksAreStale(ctx context.Context) (bool, error) {
	host, err := os.Hostname()
	if err != nil {
		return false, fault.New(fault.Internal, "ask for this host's name: %w", err)
	}
	listed, err := t.Run(ctx, t.cmd("--no-lock", "list", "locks"))
	if err != nil {
		return false, t.explain("list the locks", err)
	}
	found := false
	for _, id := range strings.Fields(listed.Stdout) {
		printed, err := t.Run(ctx, t.cmd("--no-lock", "cat", "lock", id))
		if err != nil {
			continue // its owner has removed or renewed it meanwhile, so it is at work
		}
		var l repositoryLock
		if err := json.Unmarshal([]byte(printed.Stdout), &l); err != nil {
			return false, fault.New(fault.Internal, "restic cat lock %s: %w", id, err)
		}
		_, alive := proc.Find(l.PID)
		own := l.Hostname == host && !alive
		found = found || own
		if age := time.Since(l.Time); !own && age > freshLock {
			return false, nil
		}
	}
	return found, nil
}

// isClockSynchronized reports whether the kernel holds the clock for right: whether a time service keeps it, and nobody
// has set it since (adjtimex(2), STA_UNSYNC).
var isClockSynchronized = func() bool {
	state, err := unix.Adjtimex(&unix.Timex{})
	return err == nil && state != unix.TIME_ERROR
}
