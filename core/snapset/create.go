package snapset

import (
	"context"
	"errors"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// undoLimit bounds the undoing of a set that failed.
const undoLimit = 5 * time.Minute

// Pause is how long writes to a volume waited, at most.
type Pause map[string]time.Duration // by origin, vg/lv

// errLeft says that a set failed and could not be undone either.
var errLeft = errors.New("something of it is left, which is undone when this journey has ended, or by the next run")

// take takes the planned snapshots at one instant. After an error nothing of the set is left, and everything is thawed,
// unless the error is errLeft or filesystem.ErrFreezing. limit bounds how long any file system stays frozen or suspended.
func take(ctx context.Context, l *lvm.LVM, p *Plan, limit time.Duration) (Pause, error) {
	pause, err := takeAll(ctx, l, p, limit)
	if err == nil {
		return pause, nil
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

func takeAll(ctx context.Context, l *lvm.LVM, p *Plan, limit time.Duration) (Pause, error) {
	members := append([]*Member(nil), p.Members...)
	sort.SliceStable(members, func(i, j int) bool { return methodOrder[members[i].Method] < methodOrder[members[j].Method] })
	still, err := standStill(ctx, l, members, limit)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("snapset.still")
	pause := Pause{}
	for _, m := range members {
		begun := time.Now()
		if err := still.lost(ctx, limit); err != nil {
			return nil, fault.All(err, still.release())
		}
		if err := l.CreateSnapshot(ctx, m.create(p.label())); err != nil {
			return nil, fault.All(fault.New(fault.Of(err).Code, "snapshot of %s: %w", m.origin(), err), still.release())
		}
		failpoint.Hit("snapset.taken")
		since, err := still.free(m)
		if err != nil {
			return nil, fault.All(err, still.release())
		}
		if m.Method == ByLVM || m.Method == Closed {
			since = begun
		}
		pause[m.origin()] = time.Since(since)
	}
	if err := still.lost(ctx, limit); err != nil {
		return nil, fault.All(err, still.release())
	}
	return pause, still.release()
}

func (m *Member) create(label Label) lvm.Create {
	return lvm.Create{VG: m.VG, Origin: m.LV, Name: m.Snapshot, Extents: m.Extents, ChunkBytes: lvm.Chunk, Tags: label.tags()}
}

// stillness is the time during which nobody writes to the members.
type stillness struct {
	lvm    *lvm.LVM
	frozen *filesystem.Frozen
	begun  time.Time
	over   *time.Timer         // resumes what is still suspended at the limit
	waits  map[string]struct{} // device-mapper names that are suspended by us
	guard  chan struct{}       // one token: who holds it may look at waits
	struck bool                // the limit struck
}

// standStill freezes and suspends the members that need it.
func standStill(ctx context.Context, l *lvm.LVM, members []*Member, limit time.Duration) (*stillness, error) {
	s := &stillness{lvm: l, waits: map[string]struct{}{}, guard: make(chan struct{}, 1)}
	var freeze []filesystem.Target
	var suspend []string
	for _, m := range members {
		switch m.Method {
		case ByFreeze:
			freeze = append(freeze, *m.Target)
		case BySuspend:
			suspend = append(suspend, m.DMName)
			flush(m.Points)
		}
	}
	s.begun = time.Now()
	if len(freeze) > 0 {
		frozen, err := filesystem.Freeze(ctx, freeze, limit)
		if err != nil {
			return nil, err
		}
		s.frozen = frozen
		s.begun = time.Now()
	}
	if len(suspend) == 0 {
		return s, nil
	}
	for _, name := range suspend {
		s.waits[name] = struct{}{}
	}
	s.over = time.AfterFunc(limit, s.expire)
	if err := l.Suspend(ctx, suspend...); err != nil {
		return nil, fault.All(err, s.release())
	}
	return s, nil
}

// flush writes dirty pages out before a suspend does, while others still may write.
func flush(points []string) {
	for _, point := range points {
		fd, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // the suspend flushes in any case
		}
		_ = unix.Syncfs(fd)
		_ = unix.Close(fd)
	}
}

// expire resumes what is suspended when the limit strikes. A member whose lvcreate is running is resumed by that.
func (s *stillness) expire() {
	s.guard <- struct{}{}
	defer func() { <-s.guard }()
	s.struck = true
	_ = s.resume()
}

func (s *stillness) resume() error {
	if len(s.waits) == 0 {
		return nil
	}
	names := make([]string, 0, len(s.waits))
	for name := range s.waits {
		names = append(names, name)
	}
	sort.Strings(names)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.lvm.Resume(ctx, names...); err != nil {
		return err
	}
	clear(s.waits)
	return nil
}

// free lets writes to a member go on after its snapshot was taken, and says since when they waited.
func (s *stillness) free(m *Member) (time.Time, error) {
	switch m.Method {
	case ByFreeze:
		return s.begun, s.frozen.Thaw(m.Target.Point)
	case BySuspend:
		s.guard <- struct{}{}
		defer func() { <-s.guard }()
		delete(s.waits, m.DMName) // its lvcreate has resumed it
	}
	return s.begun, nil
}

// lost says that the instant is gone: the limit struck, or the journey is asked to end.
func (s *stillness) lost(ctx context.Context, limit time.Duration) error {
	if s.frozen != nil {
		select {
		case <-s.frozen.Expired():
			return tooLong(limit)
		default:
		}
	}
	s.guard <- struct{}{}
	defer func() { <-s.guard }()
	if s.struck {
		return tooLong(limit)
	}
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Interrupted, "asked to end while the set was taken; writes go on, and what was taken of it is removed").
			WithHint("run the same again")
	}
	return ctx.Err()
}

func tooLong(limit time.Duration) error {
	return fault.New(fault.FreezeTimeout, "the snapshots were not taken within %s; writes go on again", limit).
		WithHint("the server is busy: try again at a quieter time, raise freeze_timeout, or take fewer volumes at once")
}

// release lets everything go on that still waits.
func (s *stillness) release() error {
	var errs []error
	if s.frozen != nil {
		errs = append(errs, s.frozen.ThawAll())
	}
	if s.over != nil {
		s.over.Stop()
	}
	s.guard <- struct{}{}
	defer func() { <-s.guard }()
	errs = append(errs, s.resume())
	return fault.All(errs...)
}

// Undo brings the server back to the state without the planned set, whatever was done of it: thaws, lets suspended
// origins go on, removes the snapshots. It believes LVM and the kernel, not the plan, and may be called again.
func Undo(ctx context.Context, l *lvm.LVM, p *Plan) error {
	errs := []error{p.thaw()}
	if len(p.Members) > 0 {
		errs = append(errs, l.Unsuspend(ctx, p.devices()))
	}
	if len(p.Mounted) > 0 {
		errs = append(errs, unmountTargets(p.Mounted))
	}
	if err := fault.All(errs...); err != nil || p.ID == "" {
		return err
	}
	report, err := l.Report(ctx)
	if err != nil {
		return err
	}
	var remove, devices []string
	for _, v := range report.ByTag(tagID + p.ID) {
		remove, devices = append(remove, v.FullName()), append(devices, v.DMName)
	}
	if len(remove) == 0 {
		return nil
	}
	if err := awaitClosed(ctx, l, devices); err != nil {
		return err
	}
	return l.Remove(ctx, remove...)
}

// thaw thaws what is frozen of the plan.
func (p *Plan) thaw() error {
	var errs []error
	for _, m := range p.Members {
		if m.Target == nil {
			continue
		}
		if err := filesystem.ThawMount(*m.Target); !errors.Is(err, fault.NotFound) { // unmounted meanwhile: it is not frozen any more
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}

// devices are the origins, vg/lv, by their devices' names.
func (p *Plan) devices() map[string]string {
	out := map[string]string{}
	for _, m := range p.Members {
		out[m.DMName] = m.origin()
	}
	return out
}
