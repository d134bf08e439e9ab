package restore

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

const (
	// floor is the COW space, in bytes, that must stay free whatever happens: what a file system writes of its own
	// accord between two looks. At less the restore ends.
	floor = 8 << 20
	// step is by how much a COW grows at least, in bytes.
	step = 64 << 20
	// lookEvery is how often the snapshots are looked at while only the origins are written.
	lookEvery = 2 * time.Second
	// poolFull is how full, in percent, a thin pool's data or metadata may become: beyond it every write to any of its
	// volumes may be the last.
	poolFull = 95
)

// space sees to it that the snapshots that are written never fill: what is written here fills them, and so does what
// the server goes on writing to the origins.
type space struct {
	lvm    *lvm.LVM
	own    *snapset.Own
	points *points
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu    sync.Mutex
	rooms []room
}

// room is what is known of one snapshot.
type room struct {
	left    int64 // bytes that may be written before the next look
	pending bool  // something was written since the last one
}

// watch begins to look after the set. The context that it returns ends, with the reason as its cause, when there is no
// room left.
func watch(ctx context.Context, l *lvm.LVM, own *snapset.Own, p *points) (*space, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &space{lvm: l, own: own, points: p, cancel: cancel, ended: make(chan struct{}), rooms: make([]room, len(own.Parts))}
	go s.keepLooking(ctx)
	return s, ctx
}

func (s *space) stop() {
	s.cancel(nil)
	<-s.ended
}

// cause is why the writing ended, where it was for want of room. A snapshot that has overflowed answers with I/O
// errors, which whoever reads it may see before the next look does.
func (s *space) cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	for i := range s.own.Parts {
		if _, _, lost := s.fill(context.WithoutCancel(ctx), &s.own.Parts[i]); errors.Is(lost, fault.SnapshotInvalid) {
			return lost
		}
	}
	return err
}

func (s *space) keepLooking(ctx context.Context) {
	defer close(s.ended)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.lookAtAll(ctx); err != nil && ctx.Err() == nil {
			s.cancel(err)
			return
		}
	}
}

func (s *space) lookAtAll(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.rooms {
		left, err := s.look(ctx, i)
		if err != nil {
			return err
		}
		s.rooms[i].left = min(s.rooms[i].left, left) // what waits in memory is not seen yet: never more than before
	}
	return nil
}

// gate is called before n bytes are written to snapshot i.
func (s *space) gate(ctx context.Context, i int, n int64) error {
	failpoint.Hit("restore.gate")
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.rooms[i]
	if r.left < n {
		if r.pending { // what is in memory fills the COW only when it is written out
			if err := s.points.flush(ctx, i, func() {}); err != nil {
				return err
			}
		}
		left, err := s.look(ctx, i)
		if err != nil {
			return err
		}
		*r = room{left: left}
	}
	r.left -= n
	r.pending = true
	return nil
}

// look finds out how much room a snapshot has, makes more where it is little, and says how many bytes may be written
// before the next look.
func (s *space) look(ctx context.Context, i int) (left int64, err error) {
	if s.own.Parts[i].Snapshot.Kind == lvm.Thin {
		return s.lookAtPool(ctx, i)
	}
	part := &s.own.Parts[i]
	size, used, err := s.fill(ctx, part)
	if err != nil {
		return 0, err
	}
	most := lvm.MaxCOW(part.Target.LV.Size, part.Snapshot.ChunkSize, part.Target.Group.ExtentSize)
	if size >= most { // it holds every block of the origin: it cannot overflow
		return part.Target.LV.Size, nil
	}
	if free := size - used; free < max(size/4, 2*floor) {
		if size, err = s.extend(ctx, part, size, most); err != nil {
			return 0, err
		}
	}
	free := size - used
	if free < floor {
		return 0, fault.New(fault.NoSpace, "the snapshot of %s has %s of COW space left, and volume group %s has no more to give",
			part.Target.LV.FullName(), ansible.Bytes(free), part.Target.LV.VG).
			WithHint("nothing was changed; add a physical volume (vgextend %s) or remove old snapshots, then restore again", part.Target.LV.VG)
	}
	// Half of it, because the file system's own records and what the origin is written count as well.
	return (free - floor/2) / 2, nil
}

// fill asks the kernel for a snapshot's size and use in bytes.
func (s *space) fill(ctx context.Context, part *snapset.Part) (size, used int64, err error) {
	status, err := s.lvm.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, t := range status[part.Snapshot.DMName] {
		st, ok := t.Snapshot()
		switch {
		case !ok:
		case st.Lost():
			return 0, 0, fault.New(fault.SnapshotInvalid, "the snapshot of %s overflowed while it was filled", part.Target.LV.FullName()).
				WithHint("nothing was changed; give a larger size, or restore when less is written")
		default:
			return st.TotalBytes(), st.UsedBytes(), nil
		}
	}
	return 0, 0, fault.New(fault.NotFound, "the snapshot of %s is gone from the kernel", part.Target.LV.FullName())
}

// extend makes a COW larger by half, or by what the group has left, and returns its size then.
func (s *space) extend(ctx context.Context, part *snapset.Part, size, most int64) (int64, error) {
	report, err := s.lvm.Report(ctx)
	if err != nil {
		return size, err
	}
	group, err := groupOf(report, part)
	if err != nil {
		return size, err
	}
	more := min(max(size/2, step), group.Free, most-size) / group.ExtentSize * group.ExtentSize
	if more <= 0 {
		return size, nil
	}
	if err := s.lvm.Extend(ctx, part.Snapshot.FullName(), size+more); err != nil {
		if _, _, lost := s.fill(ctx, part); errors.Is(lost, fault.SnapshotInvalid) { // LVM has no words for it
			return size, lost
		}
		return size, fault.New(fault.Of(err).Code, "extend %s: %w", part.Snapshot.FullName(), err)
	}
	return size + more, nil
}

func groupOf(r *lvm.Report, part *snapset.Part) (*lvm.Group, error) {
	if group, ok := r.Group(part.Target.LV.VG); ok {
		return group, nil
	}
	return nil, fault.New(fault.NotFound, "volume group %s is gone", part.Target.LV.VG)
}

// lookAtPool stops at a reserve of the pool's data and metadata: a full pool stops every volume in it.
func (s *space) lookAtPool(ctx context.Context, i int) (left int64, err error) {
	part := &s.own.Parts[i]
	report, err := s.lvm.Report(ctx)
	if err != nil {
		return 0, err
	}
	pool, err := report.Need(part.Target.LV.VG, part.Target.LV.Pool)
	if err != nil {
		return 0, err
	}
	if pool.DataPercent == nil || pool.MetadataPercent == nil {
		return 0, fault.New(fault.PoolDamaged, "LVM does not say how full thin pool %s is", pool.FullName()).WithHint("lvs -a %s", pool.VG)
	}
	free := int64((poolFull - *pool.DataPercent) / 100 * float64(pool.Size))
	if free <= 0 || *pool.MetadataPercent >= poolFull {
		return 0, fault.New(fault.NoSpace, "thin pool %s is %.1f%% full (its metadata %.1f%%); at %d%% a restore ends, because a full pool stops every volume in it",
			pool.FullName(), *pool.DataPercent, *pool.MetadataPercent, poolFull).
			WithHint("nothing was changed; extend the pool (lvextend %s), then restore again", pool.FullName())
	}
	return min(free/2, step), nil
}
