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

// undoLimit bounds the undoing of a set that failed.
const undoLimit = 5 * time.Minute

// groupLimit bounds the wait for an LVM command that is at work on a member's volume group.
const groupLimit = time.Minute

// Pause is how long writes to a volume waited, at most, as its device was seen to hold them.
type Pause map[string]time.Duration // by origin, vg/lv

// errLeft says that a set failed and could not be undone either.
var errLeft = errors.New("something of it is left, which is undone when this journey has ended, or by the next run")

// take takes the planned snapshots at one instant. After an error nothing of the set is left, and writes to all
// members go on, unless the error is errLeft, filesystem.ErrFreezing or lvm.ErrSuspending. limit bounds how long any
// file system stays frozen or suspended by this program; LVM's own suspend of a single volume cannot be cut short.
func take(ctx context.Context, l *lvm.LVM, p *Plan, limit time.Duration) (Pause, error) {
	t := &taker{lvm: l, plan: p, limit: limit, pause: Pause{}}
	err := t.take(ctx)
	if err == nil {
		return t.pause, nil
	}
	if mayHold(err) {
		return nil, err
	}
	return nil, fault.All(err, undone(ctx, l, p))
}

// undone is Undo after a failure: an error of it is errLeft.
func undone(ctx context.Context, l *lvm.LVM, p *Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := Undo(ctx, l, p); err != nil {
		return fault.New(fault.Of(err).Code, "%w (%w)", err, errLeft)
	}
	return nil
}

// taker takes one set.
type taker struct {
	lvm   *lvm.LVM
	plan  *Plan
	limit time.Duration
	pause Pause
}

func (t *taker) take(ctx context.Context) (err error) {
	room := lvmRoom(t.plan.ID)
	defer func() { giveBack(room, err) }()
	if err := setAside(room); err != nil {
		return err
	}
	written, err := t.written(ctx)
	if err != nil {
		return err
	}
	if err := t.create(ctx); err != nil || !t.plan.late() {
		return err
	}
	if err := t.hold(ctx); err != nil {
		return err
	}
	failpoint.Hit("snapset.still")
	if err := t.stayedClosed(ctx, written); err != nil {
		return err
	}
	return inRoom(room, func() error { return t.becomes(ctx) })
}

// becomes has the snapshots be a set, which they are when all of them have its last tag. What was left without a device
// is activated before.
func (t *taker) becomes(ctx context.Context) error {
	var inactive, active []string
	for _, m := range t.plan.Members {
		if m.inactive() {
			inactive = append(inactive, m.snapshot())
		} else {
			active = append(active, m.snapshot())
		}
	}
	if err := t.lvm.Activate(ctx, inactive...); err != nil {
		return err
	}
	tags := []string{t.plan.label().countTag()}
	if err := t.lvm.Unskip(ctx, tags, inactive...); err != nil {
		return err
	}
	return t.lvm.AddTags(ctx, tags, active...)
}

// create has LVM make the members' snapshots, one after the other, while nothing stands still.
func (t *taker) create(ctx context.Context) error {
	for _, m := range t.plan.inOrder() {
		if err := t.goOn(ctx); err != nil {
			return err
		}
		seen := t.lvm.WatchSuspended(m.DMName)
		err := t.lvm.CreateSnapshot(ctx, m.create(t.plan.firstTags()))
		t.waited(m, seen())
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

func (t *taker) waited(m *Member, d time.Duration) {
	t.pause[m.origin()] = max(t.pause[m.origin()], d)
}

func (m *Member) create(tags []string) lvm.Create {
	return lvm.Create{VG: m.VG, Origin: m.LV, Name: m.Snapshot, Extents: m.Extents, ChunkBytes: lvm.Chunk, Tags: tags,
		Inactive: m.inactive()}
}

// inactive says that the snapshot is without a device until its instant is over: a pool makes no snapshot anew whose
// device is there.
func (m *Member) inactive() bool { return m.Thin && m.Method == Held }

// goOn says that the run was asked to end.
func (t *taker) goOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Interrupted, "asked to end while the set was taken; writes go on, and what was taken of it is removed").
			WithHint("run the same again")
	}
	return ctx.Err()
}

// hold gives the snapshots of the members that are held one instant. When it is over everything goes on, and other LVM
// commands, too.
func (t *taker) hold(ctx context.Context) error {
	if len(t.plan.held()) == 0 {
		return nil
	}
	instant, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	defer instant.Close()
	failpoint.Hit("snapset.prepared")
	return t.still(ctx, instant)
}

// prepare makes the snapshots of the members that are held ready for their common instant.
func (t *taker) prepare(ctx context.Context) (*lvm.Instant, error) {
	var pairs []lvm.Pair
	var points, groups []string
	for _, m := range t.plan.held() {
		pair := lvm.Pair{Origin: m.DMName, Snapshot: lvm.DMName(m.VG, m.Snapshot), Log: m.Log}
		if m.Thin {
			pair.Thin = &lvm.ThinSnapshot{VG: m.VG, Pool: m.Pool, Origin: m.LV, Snapshot: m.Snapshot,
				Tag: tagID + t.plan.ID}
		}
		pairs = append(pairs, pair)
		points = append(points, m.Points...)
		groups = append(groups, m.VG)
	}
	// What takes long is written out before other commands of LVM's have to wait and snapshots are without their tables;
	// then what has come since.
	filesystem.WriteOut(ctx, points, flushLimit)
	instant, err := t.lvm.PrepareInstant(ctx, pairs, unique(groups), groupLimit)
	if err != nil {
		return nil, err
	}
	filesystem.WriteOut(ctx, points, briefly)
	return instant, nil
}

// flushLimit bounds the wait for dirty pages; briefly does while other LVM commands wait, such as the one by which
// dmeventd extends a thin pool that fills: the kernel fails writes to a full one after a minute (no_space_timeout).
const flushLimit, briefly = 10 * time.Minute, 20 * time.Second

// still freezes the file systems that are frozen for this set, and takes the instant of all that are held. At the end
// everything goes on.
func (t *taker) still(ctx context.Context, instant *lvm.Instant) (err error) {
	frozen, err := t.freeze(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	if frozen != nil {
		defer func() {
			err = fault.All(err, frozen.Thaw())
			for _, m := range t.plan.Members {
				if m.Target != nil {
					t.waited(m, time.Since(begun))
				}
			}
		}()
	}
	waited, err := instant.Take(ctx, t.limit)
	if err != nil {
		return err
	}
	for _, m := range t.plan.held() {
		t.waited(m, waited[m.DMName])
	}
	return nil
}

// freeze freezes the file systems that are frozen for this set; nil if there is none.
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
