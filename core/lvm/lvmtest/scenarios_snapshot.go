package lvmtest

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

func thickSnapshot(t *testing.T, b Bench) {
	b.makeLinear("o-rig.in")
	b.mustSnapshot(t, "o-rig.in", "s", 4, "rewind:set=a-b", "other")
	o, s := b.volume(t, "o-rig.in"), b.volume(t, "s")
	if s.Kind != lvm.Snapshot || s.State != lvm.Active || s.Origin != o.Name || s.OriginUUID != o.UUID {
		t.Errorf("snapshot: %+v", s)
	}
	if s.COWSize != 16*mib || s.OriginSize != 64*mib || s.ChunkSize != lvm.Chunk || !o.IsOrigin {
		t.Errorf("sizes: %+v", s)
	}
	slices.Sort(s.Tags)
	if diff := cmp.Diff([]string{"other", "rewind:set=a-b"}, s.Tags); diff != "" {
		t.Error(diff)
	}
	if found, ok := b.report(t).ByDevice(o.Major, o.Minor); !ok || found.UUID != o.UUID {
		t.Errorf("by device: %+v", found)
	}
	if status, ok := b.kernelTarget(t, "s").Snapshot(); !ok || status.TotalBytes() != s.COWSize || status.Lost() {
		t.Errorf("kernel: %+v", status)
	}
	b.mustSnapshot(t, "o-rig.in", "large", 1000)
	if got, want := b.volume(t, "large").COWSize, lvm.MaxCOW(64*mib, lvm.Chunk, 4*mib); got != want {
		t.Errorf("COW space of %d bytes, MaxCOW says %d", got, want)
	}
}

func refusedSnapshots(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 2)
	g, _ := b.report(t).Group(b.VG)
	b.Host.Make(b.VG, Volume{Name: "rest", Size: g.Free - 3*g.ExtentSize})
	for _, c := range []struct {
		spec lvm.SnapshotSpec
		want fault.Code
	}{
		{lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "s", Extents: 1}, fault.Exists},
		{lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "x", Extents: 4}, fault.NoSpace},
		{lvm.SnapshotSpec{VG: b.VG, Origin: "no", Name: "x", Extents: 1}, fault.NotFound},
		{lvm.SnapshotSpec{VG: "nogroup", Origin: "o", Name: "x", Extents: 1}, fault.NotFound},
		{lvm.SnapshotSpec{VG: b.VG, Origin: "s", Name: "x", Extents: 1}, fault.Unsupported},
	} {
		checkFault(t, b.LVM.CreateSnapshot(ctx, c.spec), c.want)
	}
	if !b.isGone(t, "x") {
		t.Error("a refused snapshot exists")
	}
}

func overflow(t *testing.T, b Bench) {
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 1)
	b.Host.Write(b.name("o"), 8*mib)
	s := b.volume(t, "s")
	if bad, why := s.Bad(); !bad || s.State != lvm.Invalid || !s.Lost() {
		t.Errorf("after an overflow: %s, bad %v %s", s.State, bad, why)
	}
	if status, ok := b.kernelTarget(t, "s").Snapshot(); !ok || !status.Invalid {
		t.Errorf("kernel: %+v", status)
	}
	checkFault(t, b.LVM.Merge(context.Background(), b.name("s")), fault.MergeFailed)
	if o := b.volume(t, "o"); o.Merging {
		t.Error("the origin merges an invalid snapshot")
	}
	must(t, b.LVM.Extend(context.Background(), b.name("s"), 16*mib))
	if s := b.volume(t, "s"); !s.Lost() {
		t.Error("an overflowed snapshot is valid again after it was extended")
	}
}

// frozenOrigin passes on kernels that can suspend a device with a frozen file system, and on those that cannot. The
// test's log says which kernel it is.
func frozenOrigin(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.Host.SetFrozen(b.name("o"), true)
	spec := lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "s", Extents: 2, Tags: []string{"mine"}}
	err := b.LVM.CreateSnapshot(ctx, spec)
	b.Host.SetFrozen(b.name("o"), false)
	t.Logf("snapshot of a frozen file system: %v", err)
	if err == nil {
		if s := b.volume(t, "s"); s.Origin != "o" || s.State != lvm.Active {
			t.Errorf("snapshot: %+v", s)
		}
		return
	}
	checkFault(t, err, fault.Busy)
	half := b.volume(t, "s")
	if half.State != lvm.MappedWithInactiveTable || half.Origin != "" || !slices.Equal(half.Tags, []string{"mine"}) {
		t.Errorf("half-made: %+v", half)
	}
	must(t, b.LVM.Remove(ctx, half))
	must(t, b.LVM.Unsuspend(ctx, map[string]string{lvm.DMName(b.VG, "o"): b.name("o")}))
	status, err := b.LVM.Status(ctx)
	must(t, err)
	if _, exists := status[lvm.DMName(b.VG, "o")+"-real"]; exists {
		t.Error("the origin's inner device is still there")
	}
}

func extend(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 2)
	longest := lvm.MaxCOW(64*mib, lvm.Chunk, 4*mib)
	for _, step := range []struct{ ask, want int64 }{
		{16 * mib, 16 * mib}, {16 * mib, 16 * mib}, {8 * mib, 16 * mib}, {16*mib + 1, 20 * mib},
		{512 * mib, longest}, {512 * mib, longest},
	} {
		must(t, b.LVM.Extend(ctx, b.name("s"), step.ask))
		if got := b.volume(t, "s").COWSize; got != step.want {
			t.Errorf("asked for %d: %d, want %d", step.ask, got, step.want)
		}
	}
	checkFault(t, b.LVM.Extend(ctx, b.name("no"), 16*mib), fault.NotFound)
	b.Host.Make(b.VG, Volume{Name: "big", Size: 64 * mib})
	checkFault(t, b.LVM.Extend(ctx, b.name("big"), 1<<40), fault.NoSpace)
}

func remove(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 1)
	b.mustSnapshot(t, "o", "u", 1)
	s, u := b.volume(t, "s"), b.volume(t, "u")
	checkFault(t, b.LVM.Remove(ctx, &lvm.Volume{VG: b.VG, Name: "no", UUID: s.UUID}, s), fault.NotFound)
	if !b.isGone(t, "s") {
		t.Error("a volume that does not exist keeps the other one from being removed")
	}
	b.Host.SetOpen(b.name("u"), 1)
	checkFault(t, b.LVM.Remove(ctx, u), fault.Busy)
	b.Host.SetOpen(b.name("u"), 0)
	must(t, b.LVM.Remove(ctx, u))
	if o := b.volume(t, "o"); o.IsOrigin {
		t.Error("a volume without snapshots is still an origin")
	}
	must(t, b.LVM.Remove(ctx))
}

// removeOnlyWhatWasSeen has another program make volumes of the names of snapshots that it has removed since they were
// reported.
func removeOnlyWhatWasSeen(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.makeThin("thin")
	b.mustSnapshot(t, "o", "s", 1)
	b.mustSnapshot(t, "thin", "ts", 0)
	b.mustSnapshot(t, "o", "kept", 1)
	s, ts, kept := b.volume(t, "s"), b.volume(t, "ts"), b.volume(t, "kept")
	must(t, b.LVM.Remove(ctx, s, ts))
	b.makeLinear("s")
	b.mustSnapshot(t, "thin", "ts", 0)
	must(t, b.LVM.Remove(ctx, s, ts, kept))
	if b.volume(t, "s").UUID == s.UUID || b.volume(t, "ts").UUID == ts.UUID || !b.isGone(t, "kept") {
		t.Error("a volume has the UUID of one that was removed, or not all that was seen was removed")
	}
	// A volume that was seen exists under another name, and its old name is that of another one.
	now := b.volume(t, "ts")
	renamed := *now
	renamed.Name = "s"
	checkFault(t, b.LVM.Remove(ctx, &renamed), fault.NotFound)
	if b.isGone(t, "s") || b.isGone(t, "ts") {
		t.Error("a volume was removed by its name or by its UUID alone")
	}
	// Somebody has taken a thick snapshot of one.
	b.mustSnapshot(t, "ts", "theirs", 1)
	checkFault(t, b.LVM.Remove(ctx, now), fault.Busy)
	must(t, b.LVM.Remove(ctx, b.volume(t, "theirs")))
	must(t, b.LVM.Remove(ctx, now))
	if !b.isGone(t, "ts") || b.isGone(t, "s") {
		t.Error("it is not removed when nothing is in the way any more")
	}
}

func tags(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	must(t, b.LVM.AddTags(ctx, []string{"a", "k=v:w"}, b.name("o")))
	must(t, b.LVM.AddTags(ctx, []string{"a"}, b.name("o")))
	must(t, b.LVM.DelTags(ctx, []string{"a", "never"}, b.name("o")))
	if diff := cmp.Diff([]string{"k=v:w"}, b.volume(t, "o").Tags); diff != "" {
		t.Error(diff)
	}
}

func activation(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 1)
	b.Host.SetOpen(b.name("o"), 1)
	if b.deactivate("o") == nil {
		t.Error("an open origin was deactivated")
	}
	b.Host.SetOpen(b.name("o"), 0)
	b.mustDeactivate(t, "o")
	o, s := b.volume(t, "o"), b.volume(t, "s")
	if o.Active || o.State != lvm.Inactive || s.Active || s.SnapPercent != nil {
		t.Errorf("inactive: %+v %+v", o, s)
	}
	must(t, b.LVM.Activate(ctx, b.name("o")))
	if o, s := b.volume(t, "o"), b.volume(t, "s"); !o.Active || !s.Active {
		t.Errorf("active: %+v %+v", o, s)
	}
}

// deactivate takes a volume's device away.
func (b Bench) deactivate(lv string) error {
	argv := []string{"lvm", "lvchange", "--activate", "n", "--", b.name(lv)}
	_, err := b.Host.Run(context.Background(), command.Cmd{Argv: argv, Changes: true})
	return err
}

// mustDeactivate takes a volume's device away as soon as udev has closed it.
func (b Bench) mustDeactivate(t *testing.T, lv string) {
	t.Helper()
	b.waitUntil(t, lv+" is deactivated", func() bool { return b.deactivate(lv) == nil })
}

// makeManual has nothing but a command activate the volume.
func (b Bench) makeManual(t *testing.T, lv string) {
	t.Helper()
	argv := []string{"lvm", "lvchange", "--setautoactivation", "n", "--", b.name(lv)}
	_, err := b.Host.Run(context.Background(), command.Cmd{Argv: argv, Changes: true})
	must(t, err)
}

func snapshotOfInactiveOrigin(t *testing.T, b Bench) {
	b.makeLinear("o")
	b.makeManual(t, "o")
	b.mustDeactivate(t, "o")
	b.mustSnapshot(t, "o", "s", 4)
	if o, s := b.volume(t, "o"), b.volume(t, "s"); o.Active || s.Active {
		t.Errorf("inactive: %+v %+v", o, s)
	}
	must(t, b.LVM.Activate(context.Background(), b.name("o")))
	if o, s := b.volume(t, "o"), b.volume(t, "s"); !o.Active || !s.Active {
		t.Errorf("active: %+v %+v", o, s)
	}
}

func suspendedOriginDamagesPool(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeThin("o")
	damaged := func() bool {
		status, err := b.LVM.Status(ctx)
		must(t, err)
		return lvm.PoolDamaged(b.volume(t, "pool"), status)
	}
	if damaged() {
		t.Error("a new pool counts as damaged")
	}
	b.mustSnapshot(t, "o", "good", 0)
	if damaged() {
		t.Error("a pool with a snapshot counts as damaged")
	}
	must(t, b.Mapper.Suspend(lvm.DMName(b.VG, "o"))())
	checkFault(t, b.LVM.CreateSnapshot(ctx, lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "s"}), fault.PoolDamaged)
	must(t, b.Mapper.Resume(lvm.DMName(b.VG, "o"))())
	checkFault(t, b.LVM.CreateSnapshot(ctx, lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "u"}), fault.PoolDamaged)
	if !damaged() {
		t.Error("the damaged pool counts as sound")
	}
}
