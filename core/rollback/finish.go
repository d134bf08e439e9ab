package rollback

import (
	"context"
	"errors"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// finish waits until every member is merged and LVM has finished its part, then removes the boot guard and closes the
// entry.
func (rb *rollback) finish(ctx context.Context) error {
	if err := rb.waitMerged(ctx); err != nil {
		return err
	}
	return rb.closeMerged(ctx)
}

// stallLimit is how long Rewind waits for a merge that makes no progress at all. The merge itself goes on after that.
const stallLimit = 10 * time.Minute

// pollInterval is how long LVM may take to finish a merge after it was told that the kernel has merged everything.
// After that LVM is told again.
const pollInterval = 10 * time.Second

// waitMerged waits until all merges are finished, and extends the time limit of the run as long as they make progress.
func (rb *rollback) waitMerged(ctx context.Context) error {
	previous, lastProgress, lastPoll := int64(-1), time.Now(), time.Time{}
	for {
		bytesLeft, unreported, err := rb.remaining(ctx)
		if err != nil {
			return err
		}
		if bytesLeft == 0 && len(unreported) == 0 {
			if complete, err := rb.completeMerge(ctx); complete || err != nil {
				return err
			}
		}
		if bytesLeft != previous {
			previous, lastProgress = bytesLeft, time.Now()
			rb.run.Extend(2 * stallLimit)
		}
		rb.run.Progress("merging", rb.percentMerged(bytesLeft))
		if len(unreported) > 0 && time.Since(lastPoll) > pollInterval {
			if err := rb.pollMerges(ctx, unreported); err != nil {
				return err
			}
			lastPoll = time.Now()
		}
		if time.Since(lastProgress) > stallLimit {
			return fault.New(fault.Timeout, "the merge of %s made no progress for %s; it goes on in the kernel",
				joinSorted(originNames(rb.state.Members)), stallLimit).
				WithHint("dmsetup status; the volumes are in use meanwhile, and the next run looks again")
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Interrupted, "the merge goes on without this run").
				WithHint("lvm_snapshot_info shows its progress")
		case <-time.After(statusInterval):
		}
	}
}

// completeMerge is true if every merge is finished. It removes what LVM left behind of them.
func (rb *rollback) completeMerge(ctx context.Context) (complete bool, err error) {
	states, err := rb.memberStates(ctx)
	if err != nil || rb.isMergeComplete(states) {
		return err == nil, err
	}
	return false, rb.removeDetached(ctx, membersIn(states, rb.state.Members, stateDetached))
}

// pollMerges tells LVM that the kernel has merged everything of these members: LVM's poller asks only now and then, or
// is gone. A second poller does no harm. LVM 2.03.31 was seen to fail at the end of a merge that a killed lvconvert had
// begun, and to leave the volume suspended.
func (rb *rollback) pollMerges(ctx context.Context, members []*Member) error {
	if err := rb.resumeSuspended(ctx); err != nil {
		return err
	}
	return rb.lvm.Poll(ctx, originNames(members)...)
}

// isMergeComplete is true if no member is left to be merged.
func (rb *rollback) isMergeComplete(states map[*Member]string) bool {
	members := rb.state.Members
	return len(membersIn(states, members, stateMerged))+len(membersIn(states, members, stateNotRolledBack)) == len(members)
}

// removeDetached removes the COW volumes that LVM left behind. It is no error if LVM has just removed them itself.
func (rb *rollback) removeDetached(ctx context.Context, members []*Member) error {
	err := rb.lvm.Remove(ctx, snapshotNames(members)...)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
