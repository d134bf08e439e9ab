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

func snapshot(t *testing.T, b Bench) {
	b.linear("o-rig.in")
	b.create(t, "o-rig.in", "s", 4, "rewind:set=a-b", "other")
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
	if status, ok := b.kernel(t, "s").Snapshot(); !ok || status.TotalBytes() != s.COWSize || status.Lost() {
		t.Errorf("kernel: %+v", status)
	}
	b.create(t, "o-rig.in", "large", 1000)
	if got, want := b.volume(t, "large").COWSize, lvm.MaxCOW(64*mib, lvm.Chunk, 4*mib); got != want {
		t.Errorf("a COW of %d bytes, MaxCOW says %d", got, want)
	}
}

func refusals(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 2)
	g, _ := b.report(t).Group(b.VG)
	b.Host.Make(b.VG, Volume{Name: "rest", Size: g.Free - 3*g.ExtentSize})
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "s", Extents: 1}), fault.Exists)
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "x", Extents: 4}), fault.NoSpace)
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "no", Name: "x", Extents: 1}), fault.NotFound)
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: "nogroup", Origin: "o", Name: "x", Extents: 1}), fault.NotFound)
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "s", Name: "x", Extents: 1}), fault.Unsupported)
	if !b.gone(t, "x") {
		t.Error("a refused snapshot is there")
	}
}

func overflow(t *testing.T, b Bench) {
	b.linear("o")
	b.create(t, "o", "s", 1)
	b.Host.Write(b.name("o"), 8*mib)
	s := b.volume(t, "s")
	if bad, why := s.Bad(); !bad || s.State != lvm.Invalid || !s.Lost() {
		t.Errorf("after an overflow: %s, bad %v %s", s.State, bad, why)
	}
	if status, ok := b.kernel(t, "s").Snapshot(); !ok || !status.Invalid {
		t.Errorf("kernel: %+v", status)
	}
	refused(t, b.LVM.Merge(context.Background(), b.name("s")), fault.MergeFailed)
	if o := b.volume(t, "o"); o.Merging {
		t.Error("the origin merges an invalid snapshot")
	}
	must(t, b.LVM.Extend(context.Background(), b.name("s"), 16*mib))
	if s := b.volume(t, "s"); !s.Lost() {
		t.Error("more space brought an overflowed snapshot back")
	}
}

// frozen passes on either sort of kernel; which one it is, is in the log.
func frozen(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.Host.SetFrozen(b.name("o"), true)
	err := b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "s", Extents: 2, Tags: []string{"mine"}})
	b.Host.SetFrozen(b.name("o"), false)
	t.Logf("snapshot of a frozen file system: %v", err)
	if err == nil {
		if s := b.volume(t, "s"); s.Origin != "o" || s.State != lvm.Active {
			t.Errorf("snapshot: %+v", s)
		}
		return
	}
	refused(t, err, fault.Busy)
	half := b.volume(t, "s")
	if half.State != lvm.MappedWithInactiveTable || half.Origin != "" || !slices.Equal(half.Tags, []string{"mine"}) {
		t.Errorf("half-made: %+v", half)
	}
	must(t, b.LVM.Remove(ctx, b.name("s")))
	must(t, b.LVM.Unsuspend(ctx, map[string]string{lvm.DMName(b.VG, "o"): b.name("o")}))
	status, err := b.LVM.Status(ctx)
	must(t, err)
	if _, left := status[lvm.DMName(b.VG, "o")+"-real"]; left {
		t.Error("the origin's inner device is still there")
	}
}

func extend(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 2)
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
	refused(t, b.LVM.Extend(ctx, b.name("no"), 16*mib), fault.NotFound)
	b.Host.Make(b.VG, Volume{Name: "big", Size: 64 * mib})
	refused(t, b.LVM.Extend(ctx, b.name("big"), 1<<40), fault.NoSpace)
}

func remove(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 1)
	b.create(t, "o", "u", 1)
	refused(t, b.LVM.Remove(ctx, b.name("no"), b.name("s")), fault.NotFound)
	if !b.gone(t, "s") {
		t.Error("one that does not exist keeps the other from being removed")
	}
	b.Host.SetOpen(b.name("u"), 1)
	refused(t, b.LVM.Remove(ctx, b.name("u")), fault.Busy)
	b.Host.SetOpen(b.name("u"), 0)
	must(t, b.LVM.Remove(ctx, b.name("u")))
	if o := b.volume(t, "o"); o.IsOrigin {
		t.Error("still an origin")
	}
	must(t, b.LVM.Remove(ctx))
}

func tags(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	must(t, b.LVM.AddTags(ctx, []string{"a", "k=v:w"}, b.name("o")))
	must(t, b.LVM.AddTags(ctx, []string{"a"}, b.name("o")))
	must(t, b.LVM.DelTags(ctx, []string{"a", "never"}, b.name("o")))
	if diff := cmp.Diff([]string{"k=v:w"}, b.volume(t, "o").Tags); diff != "" {
		t.Error(diff)
	}
}

func activation(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 1)
	b.Host.SetOpen(b.name("o"), 1)
	deactivate := func() error {
		argv := []string{"lvm", "lvchange", "--activate", "n", "--", b.name("o")}
		_, err := b.Host.Run(ctx, command.Cmd{Argv: argv, Changes: true})
		return err
	}
	if deactivate() == nil {
		t.Error("an open origin was deactivated")
	}
	b.Host.SetOpen(b.name("o"), 0)
	b.until(t, "deactivated", func() bool { return deactivate() == nil })
	if o, s := b.volume(t, "o"), b.volume(t, "s"); o.Active || o.State != lvm.Inactive || s.Active || s.SnapPercent != nil {
		t.Errorf("inactive: %+v %+v", o, s)
	}
	must(t, b.LVM.Activate(ctx, b.name("o")))
	if o, s := b.volume(t, "o"), b.volume(t, "s"); !o.Active || !s.Active {
		t.Errorf("active: %+v %+v", o, s)
	}
}

func poolDamage(t *testing.T, b Bench) {
	ctx := context.Background()
	b.thin("o")
	damaged := func() bool {
		status, err := b.LVM.Status(ctx)
		must(t, err)
		return lvm.PoolDamaged(b.volume(t, "pool"), status)
	}
	if damaged() {
		t.Error("a new pool is damaged")
	}
	b.create(t, "o", "good", 0)
	if damaged() {
		t.Error("a pool with a snapshot is damaged")
	}
	must(t, b.Mapper.Suspend(lvm.DMName(b.VG, "o"))())
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "s"}), fault.PoolDamaged)
	must(t, b.Mapper.Resume(lvm.DMName(b.VG, "o"))())
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "u"}), fault.PoolDamaged)
	if !damaged() {
		t.Error("the damage is not seen")
	}
}
