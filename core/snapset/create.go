package snapset

import (
	"context"
	"errors"
	"time"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// groupLimit bounds the wait for an LVM command that is at work on a member's volume group.
const groupLimit = time.Minute

// Pause is how long writes to each volume waited, at most, as observed at its device.
type Pause map[string]time.Duration // by origin, vg/lv

// take takes the planned snapshots at one instant. After an error nothing of the set is left, and writes to all members
// go on, unless the error is errLeftover, filesystem.ErrFreezing, lvm.ErrSuspending or lvm.ErrUnfinished. limit bounds
// how long this program keeps any file system frozen or any device suspended. It does not bound LVM's own suspend of a
// single volume, which nothing can cut short.
func take(ctx context.Context, l *lvm.LVM, p *Plan, limit time.Duration) (Pause, error) {
	t := &taker{lvm: l, plan: p, limit: limit, pause: Pause{}}
	err := t.take(ctx)
	if err == nil {
		return t.pause, nil
	}
	if mayHoldVolume(err) {
		return nil, err
	}
	return nil, fault.All(err, undoAfterFailure(ctx, l, p))
}

// taker takes one set.
type taker struct {
	lvm   *lvm.LVM
	plan  *Plan
	limit time.Duration
	pause Pause
}

func (t *taker) take(ctx context.Context) (err error) {
	reserve := lvmReserve(t.lvm, t.plan.ID)
	defer func() { removeReserve(reserve, err) }()
	if err := createReserve(reserve); err != nil {
		return err
	}
	countsBefore, err := t.closedWriteCounts(ctx)
	if err != nil {
		return err
	}
	writeOut(ctx, t.plan.points(), flushLimit)
	if err := t.createSnapshots(ctx); err != nil || !t.plan.hasSeveralMembers() {
		return err
	}
	if err := t.takeHeld(ctx); err != nil {
		return err
	}
	failpoint.Hit("snapset.still")
	if err := t.checkStayedClosed(ctx, countsBefore); err != nil {
		return err
	}
	return runWithReserve(reserve, func() error { return t.completeSet(ctx) })
}

// completeSet makes the snapshots a set, by giving each its last tag, the number of members. It first activates the
// snapshots that were created inactive.
func (t *taker) completeSet(ctx context.Context) error {
	var inactive, active []string
	for _, m := range t.plan.Members {
		if m.isCreatedInactive() {
			inactive = append(inactive, m.snapshot())
		} else {
			active = append(active, m.snapshot())
		}
	}
	if err := t.lvm.Activate(ctx, inactive...); err != nil {
		return err
	}
	tags := []string{t.plan.label().countTag()}
	if err := t.lvm.ClearActivationSkip(ctx, tags, inactive...); err != nil {
		return err
	}
	return t.lvm.AddTags(ctx, tags, active...)
}

// createSnapshots has LVM make the members' snapshots one after the other. Only LVM's own suspend of each volume makes
// writes wait. It lasts until the volume's dirty pages are written out, so most of them are written out before it.
func (t *taker) createSnapshots(ctx context.Context) error {
	for _, m := range t.plan.creationOrder() {
		if err := t.checkInterrupted(ctx); err != nil {
			return err
		}
		writeOut(ctx, m.Points, shortFlushLimit)
		longestSuspend := t.lvm.WatchSuspended(m.DMName)
		err := t.lvm.CreateSnapshot(ctx, m.createOptions(t.plan.initialTags()))
		t.notePause(m, longestSuspend())
		if errors.Is(err, fault.Busy) {
			return fault.New(fault.Busy, "snapshot of %s: another program holds its file system frozen: %w", m.origin(), err)
		}
		if err != nil {
			return fault.New(fault.Of(err).Code, "snapshot of %s: %w", m.origin(), err)
		}
		failpoint.Hit("snapset.taken")
	}
	return nil
}

// notePause records how long writes to a member waited. The longest time counts.
func (t *taker) notePause(m *Member, d time.Duration) {
	t.pause[m.origin()] = max(t.pause[m.origin()], d)
}

// createOptions returns what lvcreate needs for the member's snapshot.
func (m *Member) createOptions(tags []string) lvm.SnapshotSpec {
	return lvm.SnapshotSpec{
		VG: m.VG, Origin: m.LV, Name: m.Snapshot, Extents: m.Extents, ChunkBytes: lvm.Chunk, Tags: tags,
		Inactive: m.isCreatedInactive(),
	}
}

// isCreatedInactive says that the snapshot has no device until the set's instant is over: a pool cannot make a snapshot
// again while its device exists.
func (m *Member) isCreatedInactive() bool { return m.Thin && m.Method == Held }

// checkInterrupted fails with interrupted if the run was asked to end, and with the context's error if its time is up.
func (t *taker) checkInterrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Interrupted,
			"asked to end while the set was taken; writes go on, and what was taken of it is removed").
			WithHint("run the same again")
	}
	return ctx.Err()
}

// takeHeld gives the snapshots of the held members one common instant. When it returns, writes and other LVM commands
// go on.
func (t *taker) takeHeld(ctx context.Context) error {
	if len(t.plan.heldMembers()) == 0 {
		return nil
	}
	instant, err := t.prepareInstant(ctx)
	if err != nil {
		return err
	}
	defer instant.Close()
	failpoint.Hit("snapset.prepared")
	return t.freezeAndTake(ctx, instant)
}

// prepareInstant makes the snapshots of the held members ready for their common instant.
func (t *taker) prepareInstant(ctx context.Context) (*lvm.Instant, error) {
	var pairs []lvm.SnapshotPair
	var points, groups []string
	for _, m := range t.plan.heldMembers() {
		pairs = append(pairs, lvm.SnapshotPair{
			VG: m.VG, Origin: m.LV, Snapshot: m.Snapshot, Pool: m.Pool, Tag: tagID + t.plan.ID, Log: m.Log,
		})
		points = append(points, m.Points...)
		groups = append(groups, m.VG)
	}
	// Most dirty pages are written out now, before other LVM commands have to wait and the snapshots are without their
	// tables. Those that come in the meantime are written out afterwards.
	writeOut(ctx, points, flushLimit)
	instant, err := t.lvm.PrepareInstant(ctx, pairs, sortedUnique(groups), groupLimit)
	if err != nil {
		return nil, err
	}
	writeOut(ctx, points, shortFlushLimit)
	return instant, nil
}

// writeOut is filesystem.WriteOut. Tests replace it.
var writeOut = filesystem.WriteOut

// flushLimit bounds the waits for dirty pages during which nothing else waits, and shortFlushLimit those during which
// other LVM commands wait. One of these may be the command with which dmeventd extends a thin pool that fills up: the
// kernel fails writes to a full pool after a minute (no_space_timeout).
const flushLimit, shortFlushLimit = 10 * time.Minute, 20 * time.Second

// freezeAndTake freezes the file systems that lie on crypt devices, and takes the common instant of all held members.
// When it returns, all of them go on.
func (t *taker) freezeAndTake(ctx context.Context, instant *lvm.Instant) (err error) {
	frozen, err := t.freeze(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if frozen != nil {
		defer func() {
			err = fault.All(err, frozen.Thaw())
			for _, m := range t.plan.Members {
				if m.Target != nil {
					t.notePause(m, time.Since(start))
				}
			}
		}()
	}
	waited, err := instant.Take(ctx, t.limit)
	if err != nil {
		return err
	}
	for _, m := range t.plan.heldMembers() {
		t.notePause(m, waited[m.DMName])
	}
	return nil
}

// freeze freezes the file systems of the members that have a Target; it returns nil if there are none.
func (t *taker) freeze(ctx context.Context) (*filesystem.Frozen, error) {
	var targets []filesystem.Target
	for _, m := range t.plan.Members {
		if m.Target != nil {
			targets = append(targets, *m.Target)
		}
	}
	if len(targets) == 0 {
		return nil, nil
	}
	return filesystem.Freeze(ctx, targets, t.limit)
}
