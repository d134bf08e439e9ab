package lvmtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// makeThickPairs makes two linear volumes, a and c, with a snapshot each, as and cs.
func (b Bench) makeThickPairs(t *testing.T) []lvm.SnapshotPair {
	t.Helper()
	var pairs []lvm.SnapshotPair
	for _, o := range []string{"a", "c"} {
		b.makeLinear(o)
		b.mustSnapshot(t, o, o+"s", 4, "mine")
		pairs = append(pairs, lvm.SnapshotPair{VG: b.VG, Origin: o, Snapshot: o + "s", Tag: "mine"})
	}
	return pairs
}

func (b Bench) mapping(t *testing.T, lv string) lvm.Mapping {
	t.Helper()
	m, err := b.Mapper.Mapping(lvm.DMName(b.VG, lv))
	must(t, err)
	return m
}

// checkAtRest checks that a volume's device is not suspended, has no prepared table, and has one target of type kind.
func (b Bench) checkAtRest(t *testing.T, lv, kind string) {
	t.Helper()
	m := b.mapping(t, lv)
	if m.Suspended || m.Prepared || len(m.Table) != 1 || m.Table[0].Type != kind {
		t.Errorf("%s: %+v, want one %s target at rest", lv, m, kind)
	}
}

// lvmWithHook returns the bench's LVM with a hook, which Take calls once, while all origins are suspended. At least one
// of the snapshots must be thick.
func (b Bench) lvmWithHook(hook func() error) *lvm.LVM {
	once := sync.OnceValue(hook)
	return b.LVM.On(func() (lvm.Mapper, error) { return hookedMapper{b.Mapper, once}, nil })
}

// hookedMapper is a Mapper that calls hook before it says whether a table is prepared. Take asks for that while all
// origins are suspended.
type hookedMapper struct {
	lvm.Mapper
	hook func() error
}

func (h hookedMapper) Prepared(device string) func() (bool, error) {
	prepared := h.Mapper.Prepared(device)
	return func() (bool, error) {
		if err := h.hook(); err != nil {
			return false, err
		}
		return prepared()
	}
}

func (hookedMapper) Close() error { return nil }

// mustTake takes the instant, and checks that writes to every origin waited.
func mustTake(t *testing.T, i *lvm.Instant, pairs []lvm.SnapshotPair) {
	t.Helper()
	waited, err := i.Take(context.Background(), time.Minute)
	must(t, err)
	must(t, i.Close())
	for _, p := range pairs {
		if waited[p.OriginDevice()] <= 0 {
			t.Errorf("%s waited %v", p.Origin, waited[p.OriginDevice()])
		}
	}
}

func thickInstant(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThickPairs(t)
	b.Host.Write(b.name("a"), 4*mib)
	if used := status(t, b, "as").UsedBytes(); used < 4*mib {
		t.Errorf("4 MiB were written, and the snapshot has recorded %d bytes", used)
	}
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	for _, lv := range []string{"a", "c"} {
		b.checkAtRest(t, lv, "snapshot-origin")
		if m := b.mapping(t, lv+"s"); !m.Prepared || m.Table[0].Type != "zero" {
			t.Errorf("%s is not prepared: %+v", lv+"s", m)
		}
	}
	mustTake(t, i, pairs)
	for _, lv := range []string{"a", "c"} {
		b.checkAtRest(t, lv, "snapshot-origin")
		b.checkAtRest(t, lv+"s", "snapshot")
		if used := status(t, b, lv+"s").UsedBytes(); used > mib {
			t.Errorf("%s still has %d bytes from before the instant", lv+"s", used)
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
	b.checkAtRest(t, "a", "snapshot-origin")
	must(t, b.LVM.Extend(ctx, b.name("cs"), 20*mib))
	must(t, b.LVM.Merge(ctx, b.name("as")))
	b.waitUntil(t, "the snapshot is merged", func() bool { return b.isGone(t, "as") })
	must(t, b.LVM.Remove(ctx, b.volume(t, "cs")))
	b.checkAtRest(t, "c", "linear")
}

// status returns the kernel's status of a thick snapshot.
func status(t *testing.T, b Bench, lv string) lvm.SnapshotStatus {
	t.Helper()
	s, ok := b.kernelTarget(t, lv).Snapshot()
	if !ok {
		t.Fatalf("%s is no snapshot", lv)
	}
	return s
}

// thickInstantReachesLimit has Take reach its limit while all origins are suspended.
func thickInstantReachesLimit(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThickPairs(t)
	i, err := b.lvmWithHook(func() error {
		if !b.mapping(t, "a").Suspended || !b.mapping(t, "c").Suspended {
			t.Error("the origins are not suspended")
		}
		b.waitUntil(t, "both origins are resumed at the limit", func() bool {
			return !b.mapping(t, "a").Suspended && !b.mapping(t, "c").Suspended
		})
		return nil
	}).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Second)
	checkFault(t, err, fault.FreezeTimeout)
	must(t, i.Close())
	b.checkAtRest(t, "a", "snapshot-origin")
	must(t, b.LVM.DropPrepared(pairs[0].SnapshotDevice(), pairs[1].SnapshotDevice(), b.VG+"-gone"))
	must(t, b.LVM.Remove(ctx, b.volume(t, "as"), b.volume(t, "cs")))
	b.checkAtRest(t, "a", "linear")
	b.checkAtRest(t, "c", "linear")
}

func originResumedByAnother(t *testing.T, b Bench) {
	pairs := b.makeThickPairs(t)
	ctx := context.Background()
	i, err := b.lvmWithHook(b.Mapper.Resume(pairs[1].OriginDevice())).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Minute)
	checkFault(t, err, fault.Busy)
	must(t, i.Close())
	b.checkAtRest(t, "a", "snapshot-origin")
	b.checkAtRest(t, "c", "snapshot-origin")
}

// thickSnapshotLiveTooEarly has LVM refresh an origin whose snapshot is ready for the instant. No lock keeps LVM from
// that here. The snapshot records changes from then on.
func thickSnapshotLiveTooEarly(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThickPairs(t)
	i, err := b.LVM.PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	must(t, b.LVM.Refresh(ctx, b.name("c")))
	b.checkAtRest(t, "cs", "snapshot")
	_, err = i.Take(ctx, time.Minute)
	checkFault(t, err, fault.Busy)
	must(t, i.Close())
	b.checkAtRest(t, "a", "snapshot-origin")
	b.checkAtRest(t, "c", "snapshot-origin")
	if m := b.mapping(t, "as"); !m.Prepared {
		t.Errorf("the other snapshot was made live: %+v", m)
	}
	// A prepared table keeps the inner device of its origin in use, and LVM would leave that behind.
	must(t, b.LVM.DropPrepared(lvm.DMName(b.VG, "as"), lvm.DMName(b.VG, "cs")))
	must(t, b.LVM.Remove(ctx, b.volume(t, "as"), b.volume(t, "cs")))
	b.checkAtRest(t, "a", "linear")
	b.checkAtRest(t, "c", "linear")
}

// leftoversOfKilledCommand has two devices that a killed command left suspended: a with a prepared table, and c without
// one.
func leftoversOfKilledCommand(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("a")
	b.makeLinear("c")
	a, c := lvm.DMName(b.VG, "a"), lvm.DMName(b.VG, "c")
	must(t, b.Mapper.Suspend(a)())
	must(t, b.Mapper.Load(a, []lvm.Target{{Length: 64 * mib / sector, Type: "error"}}))
	must(t, b.Mapper.Suspend(c)())
	must(t, b.LVM.Release(a, b.VG+"-gone", c))
	b.checkAtRest(t, "c", "linear")
	if m := b.mapping(t, "a"); !m.Suspended || !m.Prepared {
		t.Errorf("Release has changed a device with a table that another command prepared: %+v", m)
	}
	must(t, b.LVM.Unsuspend(ctx, map[string]string{a: b.name("a"), c: b.name("c"), b.VG + "-gone": b.name("gone")}))
	b.checkAtRest(t, "a", "linear")
	b.checkAtRest(t, "c", "linear")
}

// makeThinPairs makes two thin volumes in one pool, a and c, with a snapshot each, as and cs. The snapshots are
// inactive and have a tag.
func (b Bench) makeThinPairs(t *testing.T) []lvm.SnapshotPair {
	t.Helper()
	b.makeThin("a")
	b.Host.Make(b.VG, Volume{Name: "c", Pool: "pool", Size: 64 * mib})
	var pairs []lvm.SnapshotPair
	for _, o := range []string{"a", "c"} {
		must(t, b.LVM.CreateSnapshot(context.Background(),
			lvm.SnapshotSpec{VG: b.VG, Origin: o, Name: o + "s", Inactive: true, Tags: []string{"mine"}}))
		if s := b.volume(t, o+"s"); s.Active || !s.SkipActivation || s.Origin != o {
			t.Errorf("a snapshot that should be inactive: %+v", s)
		}
		pairs = append(pairs, lvm.SnapshotPair{VG: b.VG, Origin: o, Snapshot: o + "s", Pool: "pool", Tag: "mine"})
	}
	return pairs
}

// checkPoolSound checks that LVM and the kernel agree on the pool, and that it can still make snapshots.
func (b Bench) checkPoolSound(t *testing.T) {
	t.Helper()
	status, err := b.LVM.Status(context.Background())
	must(t, err)
	if lvm.PoolDamaged(b.volume(t, "pool"), status) {
		t.Errorf("the pool is damaged: %v", status)
	}
	b.mustSnapshot(t, "a", "another", 0)
	must(t, b.LVM.Remove(context.Background(), b.volume(t, "another")))
}

func thinInstant(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThinPairs(t)
	b.Host.Write(b.name("a"), 4*mib)
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	b.checkAtRest(t, "a", "thin")
	b.checkAtRest(t, "c", "thin")
	mustTake(t, i, pairs)
	must(t, b.LVM.Activate(ctx, b.name("as"), b.name("cs")))
	must(t, b.LVM.ClearActivationSkip(ctx, []string{"a-set"}, b.name("as"), b.name("cs")))
	for _, lv := range []string{"a", "c", "as", "cs"} {
		b.checkAtRest(t, lv, "thin")
	}
	b.checkPoolSound(t)
	if s := b.volume(t, "as"); s.State != lvm.Active || s.Origin != "a" || s.SkipActivation || len(s.Tags) != 2 {
		t.Errorf("LVM says %+v", s)
	}
	must(t, b.LVM.Merge(ctx, b.name("as")))
	if !b.isGone(t, "as") {
		t.Error("the snapshot is not merged")
	}
	must(t, b.LVM.Remove(ctx, b.volume(t, "cs")))
	b.checkPoolSound(t)
}

// thinInstantAbandoned prepares an instant and does not take it. Then LVM's metadata has snapshots that the pool does
// not have.
func thinInstantAbandoned(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThinPairs(t)
	i, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	must(t, err)
	must(t, i.Close())
	if err := b.LVM.Activate(ctx, b.name("as")); err == nil {
		t.Error("a snapshot that the pool does not have was activated")
	}
	must(t, b.LVM.DropPrepared(pairs[0].SnapshotDevice(), pairs[1].SnapshotDevice()))
	must(t, b.LVM.Remove(ctx, b.volume(t, "as"), b.volume(t, "cs")))
	b.checkAtRest(t, "a", "thin")
	b.checkPoolSound(t)
}

// thickSnapshotMadeAnewByAnother checks that a snapshot keeps what it has recorded if another program removed the
// snapshot that was made for the instant and made one of its own under the same name.
func thickSnapshotMadeAnewByAnother(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThickPairs(t)
	must(t, b.LVM.Remove(ctx, b.volume(t, "as")))
	b.mustSnapshot(t, "a", "as", 4, "theirs")
	b.Host.Write(b.name("a"), 2*mib)
	_, err := b.LVM.PrepareInstant(ctx, pairs, []string{b.VG}, time.Minute)
	checkFault(t, err, fault.Busy)
	b.checkAtRest(t, "as", "snapshot")
	if used := status(t, b, "as").UsedBytes(); used < 2*mib {
		t.Errorf("the other program's snapshot has %d bytes of the 2 MiB that it had recorded", used)
	}
	b.checkAtRest(t, "cs", "snapshot")
}

// thinSnapshotChangedByAnother checks that a snapshot is not deleted from the pool if it is active, or if it does not
// have the tag of the snapshot that was made for the instant.
func thinSnapshotChangedByAnother(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThinPairs(t)
	must(t, b.LVM.DelTags(ctx, []string{"mine"}, b.name("as")))
	_, err := b.LVM.PrepareInstant(ctx, pairs[:1], []string{b.VG}, time.Minute)
	checkFault(t, err, fault.Busy)
	must(t, b.LVM.Activate(ctx, b.name("cs")))
	_, err = b.LVM.PrepareInstant(ctx, pairs[1:], []string{b.VG}, time.Minute)
	checkFault(t, err, fault.Busy)
	must(t, b.LVM.Activate(ctx, b.name("as")))
	b.checkAtRest(t, "as", "thin")
	b.checkAtRest(t, "cs", "thin")
	b.checkPoolSound(t)
}

// thinInstantReachesLimit has Take reach its limit while the origins of a thick snapshot and of thin ones are
// suspended. No thin snapshot may be made then: a pool that makes a snapshot of a volume that is resumed can lose what
// is written to the volume.
func thinInstantReachesLimit(t *testing.T, b Bench) {
	ctx := context.Background()
	pairs := b.makeThinPairs(t)
	b.makeLinear("thick")
	b.mustSnapshot(t, "thick", "thicks", 4, "mine")
	pairs = append(pairs, lvm.SnapshotPair{VG: b.VG, Origin: "thick", Snapshot: "thicks", Tag: "mine"})
	i, err := b.lvmWithHook(func() error {
		b.waitUntil(t, "all origins are resumed at the limit", func() bool {
			return !b.mapping(t, "a").Suspended && !b.mapping(t, "c").Suspended && !b.mapping(t, "thick").Suspended
		})
		return nil
	}).PrepareInstant(ctx, pairs, nil, time.Minute)
	must(t, err)
	_, err = i.Take(ctx, time.Second)
	checkFault(t, err, fault.FreezeTimeout)
	must(t, i.Close())
	if b.LVM.Activate(ctx, b.name("as")) == nil {
		t.Error("a snapshot was made of a volume that was not suspended")
	}
	b.checkAtRest(t, "a", "thin")
	must(t, b.LVM.DropPrepared(pairs[0].SnapshotDevice(), pairs[1].SnapshotDevice(), pairs[2].SnapshotDevice()))
	must(t, b.LVM.Remove(ctx, b.volume(t, "as"), b.volume(t, "cs"), b.volume(t, "thicks")))
	b.checkPoolSound(t)
}
