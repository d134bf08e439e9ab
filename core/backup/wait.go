package backup

import (
	"context"
	"errors"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// StoreWait is how long a Store waits for another one that holds the repository. The snapshots that it stores fill
// meanwhile, so a run waits longer before it takes them, as long as Check says that the lock is held. This is for a run
// that began in between.
const StoreWait = 10 * time.Minute

// WaitWhileLocked calls try again and again, with a pause between two calls, as long as it fails with
// repository_locked, and at most for limit. Meanwhile it reports what it waits for. It returns the error of the last
// call, or that of ctx if ctx ends before.
func WaitWhileLocked(ctx context.Context, limit, pause time.Duration, report Report, try func() error) error {
	err := try()
	if limit <= 0 || !errors.Is(err, fault.RepositoryLocked) {
		return err
	}
	label := "waiting: " + err.Error()
	defer Repeat(func() { report(Progress{Label: label}) })()
	for end := time.Now().Add(limit); errors.Is(err, fault.RepositoryLocked) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(pause, time.Until(end))):
		}
		err = try()
	}
	if errors.Is(err, fault.RepositoryLocked) {
		return fault.New(fault.RepositoryLocked, "waited for %s: %w", limit, err)
	}
	return err
}
