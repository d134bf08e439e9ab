package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// merges has LVM merge the members.
type merges struct {
	*base
	steps   *stepRecorder
	survey  *survey
	volumes *volumes

	overlap       bool          // go on when the kernel merges all members, before lvconvert ends
	ready         bool          // recheck has just found all members closed and sound
	metadataDir   string        // holds LVM's metadata from before LVM was told to merge
	openLimit     time.Duration // how long deferred members may stay open before the rollback is undone
	lvconvertDone <-chan error  // gets the result of an lvconvert that may still run; nil: none runs
}

// The states of a member. stateDetached and stateLost are in no result: there such a member is merged or
// not_rolled_back.
const (
	stateWaiting       = "waiting"  // LVM has not been told to merge it, or has refused
	stateDeferred      = "deferred" // LVM has recorded the merge, and the kernel has not begun it
	stateMerging       = "merging"
	stateDetached      = "detached" // merged, but LVM has left its COW volume behind
	stateMerged        = "merged"
	stateLost          = "lost"            // its COW space overflowed before its merge began
	stateNotRolledBack = "not_rolled_back" // lost, and its snapshot has been removed since
)

const (
	// mergeStartLimit bounds the wait for a volume that something opened just when its merge was to begin, as udev does.
	// It begins when LVM was told to merge.
	mergeStartLimit = 5 * time.Minute
	// statusInterval is how often the kernel is asked for changes that device-mapper has no event for.
	statusInterval = 500 * time.Millisecond
	// fastStatusInterval is how often the kernel is asked between the start of lvconvert and the start of the merges,
	// while services are stopped.
	fastStatusInterval = 40 * time.Millisecond
)

// begin has LVM merge all members. It returns when the kernel merges each of them, or has merged it, and all of them
// can be written to again. While an LVM command is still running (lvm.ErrUnfinished) the members stay read-only.
func (mg *merges) begin(ctx context.Context) error {
	err := mg.beginAll(ctx)
	if errors.Is(err, lvm.ErrUnfinished) {
		return err
	}
	if unprotectErr := mg.volumes.unprotect(ctx); err == nil {
		err = unprotectErr
	}
	return err
}

// beginAll is begin without making the members writable again. It tells LVM to merge the members, twice at most.
func (mg *merges) beginAll(ctx context.Context) error {
	mg.run.Progress("merging", -1)
	var mergeErr error
	attempts := 0
	if mg.ready {
		attempts, mergeErr = 1, mg.tell(ctx, mg.state.Members)
	}
	for !errors.Is(mergeErr, lvm.ErrUnfinished) {
		states, notBegun, err := mg.awaitBegun(ctx, mergeErr)
		switch {
		case err != nil || len(notBegun) == 0:
			return err
		case attempts == 2:
			return mergeRefused(notBegun, mergeErr, mg.unmerge(ctx, states))
		}
		attempts++
		mg.steps.releaseSpace() // LVM may have failed for lack of disk space for its metadata archive
		mergeErr = mg.tell(ctx, notBegun)
	}
	return mergeErr
}

// tell is start, and keeps of which snapshots LVM says that they do not exist.
func (mg *merges) tell(ctx context.Context, members []*Member) error {
	err := mg.start(ctx, members)
	mg.survey.missing = append(mg.survey.missing, lvm.NotFound(err)...)
	return err
}

// awaitBegun waits until the kernel merges every member, or has merged it. It retries merges that LVM deferred because
// something held the volume open. If a member is still open after openLimit, LVM is told to forget the merges, which
// works only if no member merges yet; otherwise the retries go on until mergeStartLimit. If there are members that LVM
// has not been told to merge, or has refused, it returns these at once as notBegun, with the states of all members.
// mergeErr is why LVM may have refused them.
func (mg *merges) awaitBegun(
	ctx context.Context, mergeErr error,
) (states map[*Member]string, notBegun []*Member, err error) {
	limited, cancel := context.WithTimeout(ctx, mergeStartLimit)
	defer cancel()
	var deferred deferral
	for {
		states, lostErr, err := mg.survey.look(limited)
		if limited.Err() != nil && len(deferred.members) > 0 {
			_, err := mg.giveUpDeferred(context.WithoutCancel(ctx), &deferred, mergeStartLimit)
			return nil, nil, err
		}
		if err != nil {
			return nil, nil, fault.All(mergeErr, err)
		}
		if lostErr != nil {
			return nil, nil, mg.endWithLost(states, lostErr)
		}
		notBegun = membersIn(states, mg.state.Members, stateWaiting)
		deferred.members = membersIn(states, mg.state.Members, stateDeferred)
		switch {
		case len(notBegun) > 0:
			return states, notBegun, nil
		case len(deferred.members) == 0:
			return nil, nil, mg.resumeSuspended(limited)
		}
		if gaveUp, err := mg.retryOrGiveUp(limited, &deferred); gaveUp || err != nil {
			return nil, nil, err
		}
	}
}

// deferral is what is known of merges that LVM has put off.
type deferral struct {
	members      []*Member
	since        time.Time // when that was first seen
	triedUnmerge bool
	retryErr     error // why the last try to begin them failed, though nothing had their volumes open
}

// retryOrGiveUp tries the deferred merges again, at once the first time, and then after a pause. After openLimit it has
// LVM forget them, once; gaveUp is true if that succeeded, or may still succeed (lvm.ErrUnfinished).
func (mg *merges) retryOrGiveUp(ctx context.Context, d *deferral) (gaveUp bool, err error) {
	switch {
	case d.since.IsZero():
		d.since = time.Now()
		// Whatever reads a volume that a killed command left suspended hangs, and so keeps the volume open.
		if err := mg.resumeSuspended(ctx); err != nil {
			return false, err
		}
	case !d.triedUnmerge && time.Since(d.since) > mg.openLimit:
		d.triedUnmerge = true
		undone, err := mg.giveUpDeferred(ctx, d, mg.openLimit)
		if undone || errors.Is(err, lvm.ErrUnfinished) {
			return true, err
		}
	default:
		// A refresh can succeed and begin nothing, so its success is no reason to go on at once.
		select {
		case <-time.After(statusInterval):
		case <-ctx.Done():
			return false, nil // the caller gives up
		}
	}
	err = mg.retryDeferred(ctx, d)
	if ctx.Err() != nil && !errors.Is(err, lvm.ErrUnfinished) {
		return false, nil
	}
	return false, err
}

// endWithLost returns the fault for snapshots that were lost, and records which members these are unless nothing is
// rolled back.
func (mg *merges) endWithLost(states map[*Member]string, lostErr error) error {
	if mg.state.isUntouched(states) {
		return mg.state.givenUpFault(states, lostErr)
	}
	return fault.All(lostErr, mg.recordLost(membersIn(states, mg.state.Members, stateLost)))
}

// recordLost writes to the journal which members were lost past the point of no return. Once their snapshots are
// removed, LVM's metadata shows no difference between them and merged members.
func (mg *merges) recordLost(members []*Member) error {
	for _, m := range members {
		m.Lost = true
	}
	return mg.steps.record(mg.entry().Step, mg.state)
}

// start has LVM merge members. It returns as soon as the kernel merges all of them, which proves that the merges
// have begun; lvconvert may then still wait for udev, back up its metadata and start its poller. For thin members it
// returns when lvconvert ends, because only then they are merged.
func (mg *merges) start(ctx context.Context, members []*Member) error {
	mg.run.Extend(lvm.ChangeLimit + mergeStartLimit + undoLimit)
	if err := mg.volumes.protect(ctx, members); err != nil {
		return err
	}
	if !mg.overlap {
		return mg.lvm.Merge(ctx, snapshotNames(members)...)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }() // even if this goroutine ends early, as that of a simulated process does
		err = mg.lvm.Merge(context.WithoutCancel(ctx), snapshotNames(members)...)
	}()
	ticker := time.NewTicker(fastStatusInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
		}
		status, err := mg.lvm.Status(ctx)
		notMerging := func(m *Member) bool { return kernelState(status[m.DMName]) != stateMerging }
		if err == nil && !slices.ContainsFunc(members, notMerging) {
			mg.lvconvertDone = done
			return nil
		}
	}
}

// awaitLvconvert waits for the end of an lvconvert that is still running. Its result does not matter, because the
// kernel merges.
func (mg *merges) awaitLvconvert() {
	if mg.lvconvertDone != nil {
		<-mg.lvconvertDone
		mg.lvconvertDone = nil
	}
}

// mergeRefused returns the fault for members that LVM does not take for merging. unmergeErr is why the rollback could
// not be undone; then the services stay stopped. It is nil if the rollback could be undone.
func mergeRefused(notBegun []*Member, cause, unmergeErr error) error {
	if cause == nil {
		cause = fault.New(fault.MergeFailed, "LVM reports no error")
	}
	if unmergeErr == nil {
		return fault.New(fault.MergeFailed, "LVM did not begin to merge %s, and nothing was rolled back: %w",
			strings.Join(snapshotNames(notBegun), ", "), cause).
			WithHint("mend the cause and run the same task again")
	}
	return fault.New(fault.MergeFailed, "%s cannot be merged; the services stay down, because %w: %w",
		strings.Join(snapshotNames(notBegun), ", "), unmergeErr, cause).
		WithHint("lvs -a shows each snapshot; mend the cause and run the same task again: it goes on from here")
}

// retryDeferred starts merges that LVM deferred because their volumes were open, or inactive. Rewind itself holds no
// volume open: udev or a monitoring program did for a moment, or somebody has mounted one.
func (mg *merges) retryDeferred(ctx context.Context, d *deferral) error {
	// At the limit the fault names what keeps a mount busy.
	if err := mg.volumes.unmountNew(ctx, d.members); err != nil && !errors.Is(err, fault.Busy) {
		return err
	}
	if err := mg.volumes.protect(ctx, d.members); err != nil {
		return err
	}
	info, err := mg.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var closed []string
	for _, m := range d.members {
		if i, active := info[m.DMName]; active && i.Open == 0 {
			closed = append(closed, m.origin())
		}
	}
	d.retryErr = fault.All(mg.volumes.activate(ctx, withoutDevice(info, d.members)), mg.lvm.Refresh(ctx, closed...))
	if errors.Is(d.retryErr, lvm.ErrUnfinished) {
		return d.retryErr
	}
	return nil
}

// resumeSuspended resumes volumes that a killed LVM command left suspended, with the tables that LVM's metadata
// describes: whatever mounts or writes to such a volume would hang. An LVM command that is still running holds the lock
// of the volume group, and resumeSuspended waits for it.
func (mg *merges) resumeSuspended(ctx context.Context) error {
	if mg.lvconvertDone != nil {
		return nil // our own lvconvert is running, and resumes what it suspends
	}
	volumes := map[string]string{}
	for _, m := range mg.state.Members {
		volumes[m.DMName] = m.origin()
	}
	return mg.lvm.Unsuspend(ctx, volumes)
}
