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
	"go.pcc.com/rewind/core/tree"
)

const (
	// minFree is the COW space, in bytes, that must stay free for what a file system writes of its own accord between two
	// checks. The restore ends if less is free.
	minFree = 8 << 20
	// minExtension is the least by which a COW space is extended, in bytes, and the most that may be written to a thin
	// pool between two checks.
	minExtension = 64 << 20
	// checkInterval is how often the snapshots are checked while only the origins are written to.
	checkInterval = 2 * time.Second
	// poolLimit is how full, in percent, a thin pool's data or metadata may become. Beyond that, any write might be the
	// one that fills the pool, and a full pool stops every volume in it.
	poolLimit = 95
)

// spaceGuard keeps the snapshots that are being written to from overflowing. Two kinds of writes fill them: those of
// the restore, and those of the server to the origins.
type spaceGuard struct {
	lvm    *lvm.LVM
	own    *snapset.OwnedSet
	flush  func(ctx context.Context, i int) error // writes out what is in memory of snapshot i
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu         sync.Mutex // not held while something is written out, which may take minutes: poll goes on meanwhile
	allowances []allowance
}

// allowance is how much may still be written to one snapshot.
type allowance struct {
	bytes     int64 // that may be written before the next check
	unflushed bool  // something was written since the last flush
}

// watchSpace starts checking the set's snapshots in the background. flush writes out what is in memory of a snapshot.
// The context that watchSpace returns ends when there is no space left, with the reason as its cause.
func watchSpace(
	ctx context.Context, l *lvm.LVM, own *snapset.OwnedSet, flush func(ctx context.Context, i int) error,
) (*spaceGuard, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &spaceGuard{
		lvm: l, own: own, flush: flush, cancel: cancel, ended: make(chan struct{}),
		allowances: make([]allowance, len(own.Parts)),
	}
	go g.poll(ctx)
	return g, ctx
}

func (g *spaceGuard) stop() {
	g.cancel(nil)
	<-g.ended
}

// cause returns why the writing ended: the lack of space if that is the reason, else err. A snapshot that has
// overflowed answers with I/O errors, and the caller may get one before the next check finds the overflow.
func (g *spaceGuard) cause(ctx context.Context, err error) error {
	if reason := context.Cause(ctx); reason != nil && !errors.Is(reason, context.Canceled) {
		return reason
	}
	for i := range g.own.Parts {
		if _, _, lost := g.usage(context.WithoutCancel(ctx), &g.own.Parts[i]); errors.Is(lost, fault.SnapshotInvalid) {
			return lost
		}
	}
	return err
}

func (g *spaceGuard) poll(ctx context.Context) {
	defer close(g.ended)
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.checkAll(ctx); err != nil && ctx.Err() == nil {
			g.cancel(err)
			return
		}
	}
}

func (g *spaceGuard) checkAll(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.allowances {
		allowed, err := g.checkSnapshot(ctx, i)
		if err != nil {
			return err
		}
		// Never raise it here: the kernel does not yet count what waits in memory.
		g.allowances[i].bytes = min(g.allowances[i].bytes, allowed)
	}
	return nil
}

// reserve is called before n bytes are written to snapshot i. It makes space for them, or returns why they must not be
// written. Only one goroutine at a time may call it.
func (g *spaceGuard) reserve(ctx context.Context, i int, n int64) error {
	failpoint.Hit("restore.gate")
	if g.take(i, n) {
		return nil
	}
	if g.allowances[i].unflushed { // what is in memory takes COW space only when it is written out
		if err := g.flush(ctx, i); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	allowed, err := g.checkSnapshot(ctx, i)
	if err != nil {
		return err
	}
	g.allowances[i] = allowance{bytes: allowed - n, unflushed: true}
	return nil
}

// take reports whether n bytes of snapshot i's allowance are left, and takes them from it.
func (g *spaceGuard) take(i int, n int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &g.allowances[i]
	if a.bytes < n {
		return false
	}
	a.bytes -= n
	a.unflushed = true
	return true
}

// checkSnapshot extends snapshot i if its free COW space is low, and returns how many bytes may be written before the
// next check.
func (g *spaceGuard) checkSnapshot(ctx context.Context, i int) (allowed int64, err error) {
	if g.own.Parts[i].Snapshot.Kind == lvm.Thin {
		return g.checkPool(ctx, i)
	}
	part := &g.own.Parts[i]
	size, used, err := g.usage(ctx, part)
	if err != nil {
		return 0, err
	}
	maxCOW := lvm.MaxCOW(part.Target.LV.Size, part.Snapshot.ChunkSize, part.Target.Group.ExtentSize)
	if size >= maxCOW { // there is space for every block of the origin: it cannot overflow
		return part.Target.LV.Size, nil
	}
	if free := size - used; free < max(size/4, 2*minFree) {
		if size, err = g.extend(ctx, part, size, maxCOW); err != nil {
			return 0, err
		}
	}
	free := size - used
	if free < minFree {
		return 0, fault.New(fault.NoSpace,
			"the snapshot of %s has %s of COW space left, and volume group %s has no more to give",
			part.Target.LV.FullName(), ansible.Bytes(free), part.Target.LV.VG).
			WithHint("add a physical volume (vgextend %s) or remove old snapshots, then restore again",
				part.Target.LV.VG)
	}
	// Allow half of it, because the file system's own records and writes to the origin take COW space as well.
	return (free - minFree/2) / 2, nil
}

// usage asks the kernel for the size and use, in bytes, of a snapshot's COW space. Faults: snapshot_invalid if it has
// overflowed, not_found if the kernel has no such snapshot.
func (g *spaceGuard) usage(ctx context.Context, part *snapset.Part) (size, used int64, err error) {
	status, err := g.lvm.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, t := range status[part.Snapshot.DMName] {
		st, ok := t.Snapshot()
		switch {
		case !ok:
		case st.Lost():
			return 0, 0, fault.New(fault.SnapshotInvalid, "the snapshot of %s overflowed while it was filled",
				part.Target.LV.FullName()).
				WithHint("give a larger size, or restore when less is written")
		default:
			return st.TotalBytes(), st.UsedBytes(), nil
		}
	}
	return 0, 0, fault.New(fault.NotFound, "the snapshot of %s is gone from the kernel", part.Target.LV.FullName())
}

// extend makes a COW space larger by half, or by what the group has left, and returns the new size in bytes.
func (g *spaceGuard) extend(ctx context.Context, part *snapset.Part, size, maxCOW int64) (int64, error) {
	report, err := g.lvm.Report(ctx)
	if err != nil {
		return size, err
	}
	group, err := findGroup(report, part)
	if err != nil {
		return size, err
	}
	extra := min(max(size/2, minExtension), group.Free, maxCOW-size) / group.ExtentSize * group.ExtentSize
	if extra <= 0 {
		return size, nil
	}
	if err := g.lvm.Extend(ctx, part.Snapshot.FullName(), size+extra); err != nil {
		// LVM's error does not say that the snapshot has overflowed.
		if _, _, lost := g.usage(ctx, part); errors.Is(lost, fault.SnapshotInvalid) {
			return size, lost
		}
		return size, fault.New(fault.Of(err).Code, "extend %s: %w", part.Snapshot.FullName(), err)
	}
	return size + extra, nil
}

func findGroup(r *lvm.Report, part *snapset.Part) (*lvm.Group, error) {
	if group, ok := r.Group(part.Target.LV.VG); ok {
		return group, nil
	}
	return nil, fault.New(fault.NotFound, "volume group %s is gone", part.Target.LV.VG)
}

// checkPool returns how many bytes may be written to the thin pool of snapshot i before the next check. It fails with
// no_space at poolLimit, because a full pool stops every volume in it.
func (g *spaceGuard) checkPool(ctx context.Context, i int) (allowed int64, err error) {
	part := &g.own.Parts[i]
	report, err := g.lvm.Report(ctx)
	if err != nil {
		return 0, err
	}
	pool, err := report.Need(part.Target.LV.VG, part.Target.LV.Pool)
	if err != nil {
		return 0, err
	}
	if pool.DataPercent == nil || pool.MetadataPercent == nil {
		return 0, fault.New(fault.PoolDamaged, "LVM does not say how full thin pool %s is", pool.FullName()).
			WithHint("lvs -a %s", pool.VG)
	}
	free := poolFree(pool)
	if free <= 0 || *pool.MetadataPercent >= poolLimit {
		return 0, fault.New(fault.NoSpace, "thin pool %s is %.1f%% full (its metadata %.1f%%); at %d%% a restore ends, "+
			"because a full pool stops every volume in it",
			pool.FullName(), *pool.DataPercent, *pool.MetadataPercent, poolLimit).
			WithHint("extend the pool (lvextend %s), then restore again", pool.FullName())
	}
	return min(free/2, minExtension), nil
}

// poolFree returns how many bytes may be written to a thin pool until it is poolLimit full.
func poolFree(pool *lvm.Volume) int64 {
	return int64((poolLimit - *pool.DataPercent) / 100 * float64(pool.Size))
}

// checkPoolNeeds returns no_space for each thin pool that cannot hold what must be written at least, not even if LVM
// extends it (lvm.conf, thin_pool_autoextend_threshold) by all that its volume group has free.
func checkPoolNeeds(report *lvm.Report, id string, targets []snapset.Target, needs []tree.Need) error {
	least := map[*lvm.Volume]int64{}
	var pools []*lvm.Volume
	for i, t := range targets {
		pool, ok := report.Volume(t.LV.VG, t.LV.Pool)
		if t.LV.Kind != lvm.Thin || !ok || pool.DataPercent == nil {
			continue // checkPool says so if LVM does not tell how full it is
		}
		if least[pool] == 0 {
			pools = append(pools, pool)
		}
		least[pool] += needs[i].Least
	}
	var errs []error
	for _, pool := range pools {
		free := max(0, poolFree(pool))
		if group, ok := report.Group(pool.VG); ok && least[pool] > free+group.Free {
			errs = append(errs, fault.New(fault.NoSpace,
				"restoring backup %s writes at least %s to thin pool %s, which has %s until it is %d%% full, and its volume "+
					"group %s free", id, ansible.Bytes(least[pool]), pool.FullName(), ansible.Bytes(free), poolLimit,
				ansible.Bytes(group.Free)).
				WithHint("extend the pool (lvextend %s), or restore fewer volumes at once; %s", pool.FullName(), sparseHint))
		}
	}
	return fault.All(errs...)
}
