package snapset

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	if err := t.create(ctx, t.plan.before()); err != nil {
		return err
	}
	instant, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	if instant != nil {
		defer instant.Close()
	}
	failpoint.Hit("snapset.prepared")
	if err := t.still(ctx, instant); err != nil {
		return err
	}
	if instant != nil {
		_ = instant.Close() // the next command of LVM's needs the groups' locks
	}
	failpoint.Hit("snapset.still")
	if err := t.stayedClosed(ctx, written); err != nil {
		return err
	}
	if !t.plan.late() {
		return nil
	}
	var snapshots []string
	for _, m := range t.plan.Members {
		snapshots = append(snapshots, m.snapshot())
	}
	return inRoom(room, func() error {
		return t.lvm.AddTags(ctx, []string{t.plan.label().countTag()}, snapshots...)
	})
}

// create has LVM make the members' snapshots, one after the other.
func (t *taker) create(ctx context.Context, members []*Member) error {
	for _, m := range members {
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
		Devices: m.Devices}
}

// goOn says that the run was asked to end.
func (t *taker) goOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Interrupted, "asked to end while the set was taken; writes go on, and what was taken of it is removed").
			WithHint("run the same again")
	}
	return ctx.Err()
}

// prepare makes the snapshots of the members that are held ready for their common instant; nil if none is held.
func (t *taker) prepare(ctx context.Context) (*lvm.Instant, error) {
	var pairs []lvm.Pair
	var points []string
	for _, m := range t.plan.Members {
		if m.Method == Held {
			pairs = append(pairs, lvm.Pair{
				Origin: m.DMName, Snapshot: lvm.DMName(m.VG, m.Snapshot), Log: m.Log,
			})
			points = append(points, m.Points...)
		}
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	// What takes long is written out before other commands of LVM's have to wait and snapshots are without their tables;
	// then what has come since.
	flush(points)
	instant, err := t.lvm.PrepareInstant(ctx, pairs, t.plan.locked(), groupLimit)
	if err != nil {
		return nil, err
	}
	flush(points)
	return instant, nil
}

// flush writes dirty pages out while others still may write, all file systems at the same time: a suspend and a freeze
// write what is left, and writers wait for that.
func flush(points []string) {
	var all sync.WaitGroup
	for _, point := range points {
		all.Add(1)
		go func() {
			defer all.Done()
			fd, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return
			}
			defer unix.Close(fd)
			_ = unix.Syncfs(fd)
		}()
	}
	all.Wait()
}

// still takes what has to be taken while nobody writes: file systems that are frozen first, then thin volumes, then the
// instant of all that are held. At the end everything goes on.
func (t *taker) still(ctx context.Context, instant *lvm.Instant) (err error) {
	frozen, err := t.freeze(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	if frozen != nil {
		defer func() {
			err = fault.All(err, frozen.ThawAll())
			for _, m := range t.plan.Members {
				if m.Target != nil {
					t.waited(m, time.Since(begun))
				}
			}
		}()
		if err := t.create(ctx, t.plan.frozenThin()); err != nil {
			return err
		}
		select {
		case <-frozen.Expired():
			return tooLong(t.limit)
		default:
		}
	}
	alone := t.plan.alone()
	createAlone := func() error { return t.create(ctx, []*Member{alone}) }
	switch {
	case instant == nil && alone == nil:
		return nil
	case instant == nil:
		return createAlone()
	case alone == nil:
		createAlone = nil
	}
	left := t.limit
	if frozen != nil {
		left -= time.Since(begun)
	}
	held, err := instant.Take(ctx, left, createAlone)
	if err != nil {
		return err
	}
	for _, m := range t.plan.Members {
		t.waited(m, held[m.DMName])
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

func tooLong(limit time.Duration) error {
	return fault.New(fault.FreezeTimeout, "the snapshots were not taken within %s; writes go on again", limit).
		WithHint("the server is busy: try again at a quieter time, raise freeze_timeout, or take fewer volumes at once")
}
