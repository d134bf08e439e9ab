package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

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

// merge has LVM merge all members. It returns when the kernel merges each of them, or has merged it, and all of them
// can be written to again. While an LVM command is still running (lvm.ErrUnfinished) the members stay read-only.
func (rb *rollback) merge(ctx context.Context) error {
	err := rb.mergeAll(ctx)
	if errors.Is(err, lvm.ErrUnfinished) {
		return err
	}
	if unprotectErr := rb.unprotect(ctx); err == nil {
		err = unprotectErr
	}
	return err
}

// mergeAll is merge without making the members writable again. It tells LVM to merge the members, twice at most.
func (rb *rollback) mergeAll(ctx context.Context) error {
	rb.run.Progress("merging", -1)
	var mergeErr error
	attempts := 0
	if rb.readyToMerge {
		attempts, mergeErr = 1, rb.tellLVM(ctx, rb.state.Members)
	}
	for !errors.Is(mergeErr, lvm.ErrUnfinished) {
		states, notBegun, err := rb.awaitBegun(ctx, mergeErr)
		switch {
		case err != nil || len(notBegun) == 0:
			return err
		case attempts == 2:
			return rb.mergeRefused(notBegun, mergeErr, rb.unmerge(ctx, states))
		}
		attempts++
		rb.releaseSpace() // LVM may have failed for lack of disk space for its metadata archive
		mergeErr = rb.tellLVM(ctx, notBegun)
	}
	return mergeErr
}

// tellLVM is startMerge, and keeps of which snapshots LVM says that they do not exist.
func (rb *rollback) tellLVM(ctx context.Context, members []*Member) error {
	err := rb.startMerge(ctx, members)
	rb.missing = append(rb.missing, lvm.NotFound(err)...)
	return err
}

// awaitBegun waits until the kernel merges every member, or has merged it. It retries merges that LVM deferred because
// something held the volume open. If a member is still open after openLimit, LVM is told to forget the merges, which
// works only if no member merges yet; otherwise the retries go on until mergeStartLimit. If there are members that LVM
// has not been told to merge, or has refused, it returns these at once as notBegun, with the states of all members.
// mergeErr is why LVM may have refused them.
func (rb *rollback) awaitBegun(
	ctx context.Context, mergeErr error,
) (states map[*Member]string, notBegun []*Member, err error) {
	limited, cancel := context.WithTimeout(ctx, mergeStartLimit)
	defer cancel()
	var deferred deferral
	for {
		states, lostErr, err := rb.survey(limited)
		if limited.Err() != nil && len(deferred.members) > 0 {
			_, err := rb.giveUpOpened(context.WithoutCancel(ctx), deferred.members, mergeStartLimit)
			return nil, nil, err
		}
		if err != nil {
			return nil, nil, fault.All(mergeErr, err)
		}
		if lostErr != nil {
			return nil, nil, rb.endWithLost(states, lostErr)
		}
		notBegun = membersIn(states, rb.state.Members, stateWaiting)
		deferred.members = membersIn(states, rb.state.Members, stateDeferred)
		switch {
		case len(notBegun) > 0:
			return states, notBegun, nil
		case len(deferred.members) == 0:
			return nil, nil, rb.resumeSuspended(limited)
		}
		if gaveUp, err := rb.retryOrGiveUp(limited, &deferred); gaveUp || err != nil {
			return nil, nil, err
		}
	}
}

// deferral is what is known of merges that LVM has put off.
type deferral struct {
	members      []*Member
	since        time.Time // when that was first seen
	triedUnmerge bool
}

// retryOrGiveUp tries the deferred merges again. After openLimit it has LVM forget them, once; gaveUp is true if that
// succeeded, or may still succeed (lvm.ErrUnfinished).
func (rb *rollback) retryOrGiveUp(ctx context.Context, d *deferral) (gaveUp bool, err error) {
	switch {
	case d.since.IsZero():
		d.since = time.Now()
		// Whatever reads a volume that a killed command left suspended hangs, and so keeps the volume open.
		if err := rb.resumeSuspended(ctx); err != nil {
			return false, err
		}
	case !d.triedUnmerge && time.Since(d.since) > rb.openLimit:
		d.triedUnmerge = true
		undone, err := rb.giveUpOpened(ctx, d.members, rb.openLimit)
		if undone || errors.Is(err, lvm.ErrUnfinished) {
			return true, err
		}
	}
	err = rb.retryDeferred(ctx, d.members)
	if ctx.Err() != nil && !errors.Is(err, lvm.ErrUnfinished) {
		return false, nil // the caller gives up
	}
	return false, err
}

// endWithLost returns the fault for snapshots that were lost, and records which members these are unless nothing is
// rolled back.
func (rb *rollback) endWithLost(states map[*Member]string, lostErr error) error {
	if rb.isUntouched(states) {
		return rb.givenUpFault(states, lostErr)
	}
	return fault.All(lostErr, rb.recordLost(membersIn(states, rb.state.Members, stateLost)))
}

// recordLost writes to the journal which members were lost past the point of no return. Once their snapshots are
// removed, LVM's metadata shows no difference between them and merged members.
func (rb *rollback) recordLost(members []*Member) error {
	for _, m := range members {
		m.Lost = true
	}
	return rb.record(rb.entry().Step, rb.state)
}

// startMerge has LVM merge members. It returns as soon as the kernel merges all of them, which proves that the merges
// have begun; lvconvert may then still wait for udev, back up its metadata and start its poller. For thin members it
// returns when lvconvert ends, because only then they are merged.
func (rb *rollback) startMerge(ctx context.Context, members []*Member) error {
	rb.run.Extend(lvm.ChangeLimit + mergeStartLimit + undoLimit)
	if err := rb.protect(ctx, members); err != nil {
		return err
	}
	if !rb.overlapLvconvert {
		return rb.lvm.Merge(ctx, snapshotNames(members)...)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }() // even if this goroutine ends early, as that of a simulated process does
		err = rb.lvm.Merge(context.WithoutCancel(ctx), snapshotNames(members)...)
	}()
	ticker := time.NewTicker(fastStatusInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
		}
		status, err := rb.lvm.Status(ctx)
		notMerging := func(m *Member) bool { return kernelState(status[m.DMName]) != stateMerging }
		if err == nil && !slices.ContainsFunc(members, notMerging) {
			rb.lvconvertDone = done
			return nil
		}
	}
}

// awaitLvconvert waits for the end of an lvconvert that is still running. Its result does not matter, because the
// kernel merges.
func (rb *rollback) awaitLvconvert() {
	if rb.lvconvertDone != nil {
		<-rb.lvconvertDone
		rb.lvconvertDone = nil
	}
}

// mergeRefused returns the fault for members that LVM does not take for merging. unmergeErr is why the rollback could
// not be undone; then the services stay stopped. It is nil if the rollback could be undone.
func (rb *rollback) mergeRefused(notBegun []*Member, cause, unmergeErr error) error {
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

// retryDeferred starts merges that LVM deferred because it found their volumes open. Rewind itself holds no volume
// open: udev or a monitoring program did for a moment, or somebody has mounted one.
func (rb *rollback) retryDeferred(ctx context.Context, deferred []*Member) error {
	// At the limit the fault names what keeps a mount busy.
	if err := rb.unmountNew(ctx, deferred); err != nil && !errors.Is(err, fault.Busy) {
		return err
	}
	if err := rb.protect(ctx, deferred); err != nil {
		return err
	}
	info, err := rb.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var closed []string
	for _, m := range deferred {
		if info[m.DMName].Open == 0 {
			closed = append(closed, m.origin())
		}
	}
	if len(closed) > 0 {
		if err := rb.lvm.Refresh(ctx, closed...); err == nil || errors.Is(err, lvm.ErrUnfinished) {
			return err
		}
	}
	select {
	case <-time.After(statusInterval):
	case <-ctx.Done():
	}
	return nil
}

// resumeSuspended resumes volumes that a killed LVM command left suspended, with the tables that LVM's metadata
// describes: whatever mounts or writes to such a volume would hang. An LVM command that is still running holds the lock
// of the volume group, and resumeSuspended waits for it.
func (rb *rollback) resumeSuspended(ctx context.Context) error {
	if rb.lvconvertDone != nil {
		return nil // our own lvconvert is running, and resumes what it suspends
	}
	volumes := map[string]string{}
	for _, m := range rb.state.Members {
		volumes[m.DMName] = m.origin()
	}
	return rb.lvm.Unsuspend(ctx, volumes)
}

// retake takes the same set again, for rehearsals. LVM takes no thick snapshot of a volume that is merging, so for
// thick members the services wait until the merge is finished. Thin members are already merged here.
func (rb *rollback) retake(ctx context.Context) error {
	if err := rb.waitMerged(ctx); err != nil {
		return err
	}
	var volumes []snapset.Volume
	for _, m := range rb.state.Members {
		v := snapset.Volume{Name: m.origin()}
		if m.COWSize > 0 {
			v.Size = sizeInBytes(m.COWSize)
		}
		volumes = append(volumes, v)
	}
	ownEntry := rb.run.Entry()
	defer rb.run.Resume(ownEntry)
	sets := rb.server.Sets
	sets.Runner = rb.commands
	_, err := sets.Apply(ctx, rb.run, snapset.Request{
		State: snapset.Present, Set: rb.state.Set, Volumes: volumes, FreezeTimeout: time.Minute,
	})
	return err
}

// membersIn returns those of the members that are in a state.
func membersIn(states map[*Member]string, members []*Member, state string) []*Member {
	var list []*Member
	for _, m := range members {
		if states[m] == state {
			list = append(list, m)
		}
	}
	return list
}

func snapshotNames(members []*Member) []string {
	var names []string
	for _, m := range members {
		names = append(names, m.snapshot())
	}
	return names
}

func originNames(members []*Member) []string {
	var names []string
	for _, m := range members {
		names = append(names, m.origin())
	}
	return names
}
