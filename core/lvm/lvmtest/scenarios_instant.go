package lvmtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// pairs makes two linear volumes with a snapshot each, and returns them for an instant.
func (b Bench) pairs(t *testing.T) []lvm.Pair {
	t.Helper()
	var pairs []lvm.Pair
	for _, o := range []string{"a", "c"} {
		b.linear(o)
		b.create(t, o, o+"s", 4)
		pairs = append(pairs, lvm.Pair{Origin: lvm.DMName(b.VG, o), Snapshot: lvm.DMName(b.VG, o+"s")})
	}
	return pairs
}

func (b Bench) mapping(t *testing.T, lv string) lvm.Mapping {
	t.Helper()
	m, err := b.Mapper.Mapping(lvm.DMName(b.VG, lv))
	must(t, err)
	return m
}

// atRest checks that a volume's device is not suspended, has no prepared table and maps what it is expected to.
func (b Bench) atRest(t *testing.T, lv, kind string) {
	t.Helper()
	m := b.mapping(t, lv)
	if m.Suspended || m.Prepared || len(m.Table) != 1 || m.Table[0].Type != kind {
		t.Errorf("%s: %+v, want one %s target at rest", lv, m, kind)
	}
}

// whileHeld returns the bench's LVM, with something that happens once while the origins of thick snapshots are held.
func (b Bench) whileHeld(happens func() error) *lvm.LVM {
	once := sync.OnceValue(happens)
	return b.LVM.On(func() (lvm.Mapper, error) { return held{b.Mapper, once}, nil })
}

// held is a Mapper beside which something happens when it is asked whether a table is prepared.
type held struct {
	lvm.Mapper
	happens func() error
}

func (h held) Prepared(device string) func() (bool, error) {
	prepared := h.Mapper.Prepared(device)
	return func() (bool, error) {
		if err := h.happens(); err != nil {
			return false, err
		}
		return prepared()
	}
}

func (held) Close() error { return nil }

// taken has the instant taken, and checks that every origin waited.
func taken(t *testing.T, i *lvm.Instant, pairs []lvm.Pair) {
	t.Helper()
	waited, err := i.Take(context.Background(), time.Minute)
	must(t, err)
	must(t, i.Close())
	for _, p := range pairs {
		if waited[p.Origin] <= 0 {
			t.Errorf("%s waited %v", p.Origin, waited[p.Origin])
		}
	}
}

func instant(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.pairs(t)
	b.Host.Write(b.name("a"), 4*mib)
	if used := status(t, b, "as").UsedBytes(); used < 4*mib {
		t.Errorf("the snapshot has recorded %d bytes of 4 MiB", used)
	}
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	for _, lv := range []string{"a", "c"} {
		b.atRest(t, lv, "snapshot-origin")
		if m := b.mapping(t, lv+"s"); !m.Prepared || m.Table[0].Type != "zero" {
			t.Errorf("%s is not prepared: %+v", lv+"s", m)
		}
	}
	taken(t, i, pairs)
	for _, lv := range []string{"a", "c"} {
		b.atRest(t, lv, "snapshot-origin")
		b.atRest(t, lv+"s", "snapshot")
		if used := status(t, b, lv+"s").UsedBytes(); used > mib {
			t.Errorf("%s still has %d bytes of before the instant", lv+"s", used)
		}
	}
	b.Host.Write(b.name("a"), 2*mib)
	if used := status(t, b, "as").UsedBytes(); used < 2*mib || used > 3*mib {
		t.Errorf("2 MiB were written after the instant, and the snapshot has recorded %d bytes", used)
	}
	if s := b.volume(t, "as"); s.State != lvm.Active || s.Origin != "a" {
		t.Errorf("LVM says %+v", s)
	}
	must(t, b.LVM.Refresh(ctx, b.name("a")))
	b.atRest(t, "a", "snapshot-origin")
	must(t, b.LVM.Extend(ctx, b.name("cs"), 20*mib))
	must(t, b.LVM.Merge(ctx, b.name("as")))
	b.until(t, "the snapshot is merged", func() bool { return b.gone(t, "as") })
	must(t, b.LVM.Remove(ctx, b.name("cs")))
	b.atRest(t, "c", "linear")
}

func status(t *testing.T, b Bench, lv string) lvm.SnapshotStatus {
	t.Helper()
	s, ok := b.kernel(t, lv).Snapshot()
	if !ok {
		t.Fatalf("%s is no snapshot", lv)
	}
	return s
}

// instantExpires has the limit strike while all origins are held.
func instantExpires(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.pairs(t)
	i, err := b.whileHeld(func() error {
		if !b.mapping(t, "a").Suspended || !b.mapping(t, "c").Suspended {
			t.Error("the origins are not held")
		}
		b.until(t, "the limit resumed both", func() bool {
			return !b.mapping(t, "a").Suspended && !b.mapping(t, "c").Suspended
		})
		return nil
	}).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Second)
	refused(t, err, fault.FreezeTimeout)
	must(t, i.Close())
	b.atRest(t, "a", "snapshot-origin")
	must(t, b.LVM.Disarm(pairs[0].Snapshot, pairs[1].Snapshot, b.VG+"-gone"))
	must(t, b.LVM.Remove(ctx, b.name("as"), b.name("cs")))
	b.atRest(t, "a", "linear")
	b.atRest(t, "c", "linear")
}

func instantInterfered(t *testing.T, b Bench) {
	pairs := b.pairs(t)
	ctx := context.Background()
	i, err := b.whileHeld(b.Mapper.Resume(pairs[1].Origin)).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Minute)
	refused(t, err, fault.Busy)
	must(t, i.Close())
	b.atRest(t, "a", "snapshot-origin")
	b.atRest(t, "c", "snapshot-origin")
}

// instantForestalled has LVM load an origin's tables anew when its snapshot is ready for the instant, where no lock
// keeps it from that: the snapshot records from there on.
func instantForestalled(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.pairs(t)
	i, err := b.LVM.PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	must(t, b.LVM.Refresh(ctx, b.name("c")))
	b.atRest(t, "cs", "snapshot")
	_, err = i.Take(ctx, time.Minute)
	refused(t, err, fault.Busy)
	must(t, i.Close())
	b.atRest(t, "a", "snapshot-origin")
	b.atRest(t, "c", "snapshot-origin")
	if m := b.mapping(t, "as"); !m.Prepared {
		t.Errorf("the other snapshot was made live: %+v", m)
	}
}

// leftovers are a device that a killed command left suspended with a table that was never made live, and one without.
func leftovers(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("a")
	b.linear("c")
	a, c := lvm.DMName(b.VG, "a"), lvm.DMName(b.VG, "c")
	must(t, b.Mapper.Suspend(a)())
	must(t, b.Mapper.Load(a, []lvm.Target{{Length: 64 * mib / sector, Type: "error"}}))
	must(t, b.Mapper.Suspend(c)())
	must(t, b.LVM.Release(a, b.VG+"-gone", c))
	b.atRest(t, "c", "linear")
	if m := b.mapping(t, "a"); !m.Suspended || !m.Prepared {
		t.Errorf("a table that another command prepared was made live, or dropped under it: %+v", m)
	}
	must(t, b.LVM.Unsuspend(ctx, map[string]string{a: b.name("a"), c: b.name("c"), b.VG + "-gone": b.name("gone")}))
	b.atRest(t, "a", "linear")
	b.atRest(t, "c", "linear")
}

// thinPairs makes two thin volumes in one pool, with a snapshot each that is not active and has a tag.
func (b Bench) thinPairs(t *testing.T) []lvm.Pair {
	t.Helper()
	b.thin("a")
	b.Host.Make(b.VG, Volume{Name: "c", Pool: "pool", Size: 64 * mib})
	var pairs []lvm.Pair
	for _, o := range []string{"a", "c"} {
		must(t, b.LVM.CreateSnapshot(context.Background(),
			lvm.Create{VG: b.VG, Origin: o, Name: o + "s", Inactive: true, Tags: []string{"mine"}}))
		if s := b.volume(t, o+"s"); s.Active || !s.SkipActivation || s.Origin != o {
			t.Errorf("a snapshot that is not to be active: %+v", s)
		}
		pairs = append(pairs, lvm.Pair{Origin: lvm.DMName(b.VG, o), Snapshot: lvm.DMName(b.VG, o+"s"),
			Thin: &lvm.ThinSnapshot{VG: b.VG, Pool: "pool", Origin: o, Snapshot: o + "s", Tag: "mine"}})
	}
	return pairs
}

// soundPool checks that LVM and the kernel agree on the pool, and that it goes on making snapshots.
func (b Bench) soundPool(t *testing.T) {
	t.Helper()
	status, err := b.LVM.Status(context.Background())
	must(t, err)
	if lvm.PoolDamaged(b.volume(t, "pool"), status) {
		t.Errorf("the pool is damaged: %v", status)
	}
	b.create(t, "a", "another", 0)
	must(t, b.LVM.Remove(context.Background(), b.name("another")))
}

func thinInstant(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.thinPairs(t)
	b.Host.Write(b.name("a"), 4*mib)
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	b.atRest(t, "a", "thin")
	b.atRest(t, "c", "thin")
	taken(t, i, pairs)
	must(t, b.LVM.Activate(ctx, b.name("as"), b.name("cs")))
	must(t, b.LVM.Unskip(ctx, []string{"a-set"}, b.name("as"), b.name("cs")))
	for _, lv := range []string{"a", "c", "as", "cs"} {
		b.atRest(t, lv, "thin")
	}
	b.soundPool(t)
	if s := b.volume(t, "as"); s.State != lvm.Active || s.Origin != "a" || s.SkipActivation || len(s.Tags) != 2 {
		t.Errorf("LVM says %+v", s)
	}
	must(t, b.LVM.Merge(ctx, b.name("as")))
	if !b.gone(t, "as") {
		t.Error("the snapshot is not merged")
	}
	must(t, b.LVM.Remove(ctx, b.name("cs")))
	b.soundPool(t)
}

// thinLeft has an instant end before its moment: LVM has snapshots that the pool does not have.
func thinLeft(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.thinPairs(t)
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	must(t, i.Close())
	if err := b.LVM.Activate(ctx, b.name("as")); err == nil {
		t.Error("a snapshot that the pool does not have is active")
	}
	must(t, b.LVM.Disarm(pairs[0].Snapshot, pairs[1].Snapshot))
	must(t, b.LVM.Remove(ctx, b.name("as"), b.name("cs")))
	b.atRest(t, "a", "thin")
	b.soundPool(t)
}

// thinForestalled deletes nothing from the pool that is active, or is not the snapshot that was made for the instant.
func thinForestalled(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.thinPairs(t)
	must(t, b.LVM.DelTags(ctx, []string{"mine"}, b.name("as")))
	_, err := b.LVM.PrepareInstant(ctx, pairs[:1], []string{b.VG}, time.Minute)
	refused(t, err, fault.Busy)
	must(t, b.LVM.Activate(ctx, b.name("cs")))
	_, err = b.LVM.PrepareInstant(ctx, pairs[1:], []string{b.VG}, time.Minute)
	refused(t, err, fault.Busy)
	must(t, b.LVM.Activate(ctx, b.name("as")))
	b.atRest(t, "as", "thin")
	b.atRest(t, "cs", "thin")
	b.soundPool(t)
}

// thinExpires has the limit strike while a thick volume and thin ones are held: a pool that made a snapshot of a volume
// that goes on again could lose what is written to the volume.
func thinExpires(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.thinPairs(t)
	b.linear("thick")
	b.create(t, "thick", "thicks", 4)
	pairs = append(pairs, lvm.Pair{Origin: lvm.DMName(b.VG, "thick"), Snapshot: lvm.DMName(b.VG, "thicks")})
	i, err := b.whileHeld(func() error {
		b.until(t, "the limit resumed all", func() bool {
			return !b.mapping(t, "a").Suspended && !b.mapping(t, "c").Suspended && !b.mapping(t, "thick").Suspended
		})
		return nil
	}).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Second)
	refused(t, err, fault.FreezeTimeout)
	must(t, i.Close())
	if b.LVM.Activate(ctx, b.name("as")) == nil {
		t.Error("a snapshot was made of a volume that was not held")
	}
	b.atRest(t, "a", "thin")
	must(t, b.LVM.Disarm(pairs[0].Snapshot, pairs[1].Snapshot, pairs[2].Snapshot))
	must(t, b.LVM.Remove(ctx, b.name("as"), b.name("cs"), b.name("thicks")))
	b.soundPool(t)
}
