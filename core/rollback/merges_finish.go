package rollback

import (
	"context"
	"errors"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// stallLimit is how long Rewind waits for a merge that makes no progress at all. The merge itself goes on after that.
const stallLimit = 10 * time.Minute

// pollInterval is how long LVM may take to finish a merge after it was told that the kernel has merged everything.
// After that LVM is told again.
const pollInterval = 10 * time.Second

// wait waits until all merges are finished, and extends the time limit of the run as long as they make progress.
func (mg *merges) wait(ctx context.Context) error {
	previous, lastProgress, lastPoll := int64(-1), time.Now(), time.Time{}
	for {
		bytesLeft, unreported, err := mg.survey.remaining(ctx)
		if err != nil {
			return err
		}
		if bytesLeft == 0 && len(unreported) == 0 {
			if complete, err := mg.complete(ctx); complete || err != nil {
				return err
			}
		}
		if bytesLeft != previous {
			previous, lastProgress = bytesLeft, time.Now()
			mg.run.Extend(2 * stallLimit)
		}
		mg.run.Progress("merging", mg.state.percentMerged(bytesLeft))
		if len(unreported) > 0 && time.Since(lastPoll) > pollInterval {
			if err := mg.poll(ctx, unreported); err != nil {
				return err
			}
			lastPoll = time.Now()
		}
		if time.Since(lastProgress) > stallLimit {
			return fault.New(fault.Timeout, "the merge of %s made no progress for %s; it goes on in the kernel",
				joinSorted(originNames(mg.state.Members)), stallLimit).
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

// complete is true if every merge is finished. It removes what LVM left behind of them.
func (mg *merges) complete(ctx context.Context) (complete bool, err error) {
	states, err := mg.survey.states(ctx)
	if err != nil || mg.state.isMergeComplete(states) {
		return err == nil, err
	}
	return false, mg.removeDetached(ctx, membersIn(states, mg.state.Members, stateDetached))
}

// poll tells LVM that the kernel has merged everything of these members: LVM's poller asks only now and then, or
// is gone. A second poller does no harm. LVM 2.03.31 was seen to fail at the end of a merge that a killed lvconvert had
// begun, and to leave the volume suspended.
func (mg *merges) poll(ctx context.Context, members []*Member) error {
	if err := mg.resumeSuspended(ctx); err != nil {
		return err
	}
	return mg.lvm.Poll(ctx, originNames(members)...)
}

// removeDetached removes the COW volumes that LVM left behind. It is no error if LVM has just removed them itself.
func (mg *merges) removeDetached(ctx context.Context, members []*Member) error {
	var leftBehind []*lvm.Volume
	for _, m := range members {
		leftBehind = append(leftBehind, &lvm.Volume{VG: m.VG, Name: m.Snapshot, UUID: m.SnapshotID})
	}
	err := mg.lvm.Remove(ctx, leftBehind...)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
