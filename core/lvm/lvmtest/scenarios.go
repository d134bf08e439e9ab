package lvmtest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// Host is what a scenario runs on: a Fake, or a machine with real LVM and an
// empty volume group of 1.5 GiB or more.
type Host interface {
	command.Runner
	Make(vg string, v Volume)           // linear, thin pool or thin
	Write(name string, bytes int64)     // changes bytes that were not changed before
	SetOpen(name string, times int)     // holds the device open, or lets go of it
	SetFrozen(name string, frozen bool) // freezes a file system on it, or thaws it
	Tick()                              // lets time pass
}

// Scenario is one thing that LVM does, as package lvm reports it.
type Scenario struct {
	Name string
	Run  func(t *testing.T, s Bench)
}

// Bench is what a scenario works with.
type Bench struct {
	Host Host
	VG   string
	LVM  *lvm.LVM
}

// Scenarios returns what the Fake and real LVM must both do.
func Scenarios() []Scenario {
	return []Scenario{
		{"snapshot", snapshot},
		{"refusals leave nothing", refusals},
		{"overflow", overflow},
		{"merge of a closed origin", mergeClosed},
		{"merge of an open origin waits", mergeDeferred},
		{"half a merge", mergeHalf},
		{"a merge fills the other snapshot", mergeFillsSibling},
		{"thin merge", thinMerge},
		{"thin merge of an open origin waits", thinDeferred},
		{"suspended origins", suspended},
		{"resume goes on after a device that is gone", resumeRest},
		{"frozen origin", frozen},
		{"extend", extend},
		{"remove", remove},
		{"tags", tags},
		{"activation", activation},
		{"a suspended thin origin damages its pool", poolDamage},
	}
}

func (b Bench) name(lv string) string { return b.VG + "/" + lv }

func (b Bench) report(t *testing.T) *lvm.Report {
	t.Helper()
	r, err := b.LVM.Report(context.Background())
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	return r
}

func (b Bench) volume(t *testing.T, lv string) *lvm.Volume {
	t.Helper()
	v, err := b.report(t).Need(b.VG, lv)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (b Bench) gone(t *testing.T, lv string) bool {
	t.Helper()
	_, there := b.report(t).Volume(b.VG, lv)
	return !there
}

// linear makes a linear volume of 64 MiB.
func (b Bench) linear(lv string) {
	b.Host.Make(b.VG, Volume{Name: lv, Size: 64 * mib})
}

// thin makes a thin pool and a thin volume in it.
func (b Bench) thin(lv string) {
	b.Host.Make(b.VG, Volume{Name: "pool", Kind: lvm.ThinPool, Size: 128 * mib})
	b.Host.Make(b.VG, Volume{Name: lv, Pool: "pool", Size: 64 * mib})
}

func (b Bench) create(t *testing.T, origin, name string, extents int64, tags ...string) {
	t.Helper()
	c := lvm.Create{VG: b.VG, Origin: origin, Name: name, Extents: extents, Tags: tags}
	if err := b.LVM.CreateSnapshot(context.Background(), c); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

// refused checks that an error is of a code.
func refused(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("got %v (%v), want %s", err, fault.Of(err), code)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until lets time pass until a condition holds.
func (b Bench) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		b.Host.Tick()
	}
}

// kernel returns the status of a device that has one target.
func (b Bench) kernel(t *testing.T, lv string) lvm.Target {
	t.Helper()
	status, err := b.LVM.Status(context.Background())
	must(t, err)
	targets := status[lvm.DMName(b.VG, lv)]
	if len(targets) != 1 {
		t.Fatalf("%s has targets %v", lv, targets)
	}
	return targets[0]
}

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

func mergeClosed(t *testing.T, b Bench) {
	b.linear("o")
	b.create(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	b.merged(t, "o", "s")
	if o := b.volume(t, "o"); o.IsOrigin || o.Merging || o.State != lvm.Active {
		t.Errorf("after the merge: %+v", o)
	}
}

// merged waits for the end of a merge; udev may have had the origin open for a
// moment when it was to begin, so it is refreshed.
func (b Bench) merged(t *testing.T, origin, snapshot string) {
	t.Helper()
	ctx := context.Background()
	b.until(t, "merged "+snapshot, func() bool {
		if b.gone(t, snapshot) {
			return true
		}
		target := b.kernel(t, origin)
		status, ok := target.Snapshot()
		if !ok {
			must(t, b.LVM.Refresh(ctx, b.name(origin)))
		}
		if status.Merged() {
			must(t, b.LVM.Poll(ctx, b.name(origin)))
		}
		return false
	})
}

func mergeDeferred(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	s := b.volume(t, "s")
	if !s.Merging || !s.Hidden || s.State != lvm.Merging || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	if target := b.kernel(t, "o"); target.Type != "snapshot-origin" {
		t.Errorf("the kernel has %s, want snapshot-origin: a deferred merge must not run", target.Type)
	}
	must(t, b.LVM.Refresh(ctx, b.name("o")))
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "x", Extents: 1}), fault.Merging)
	refused(t, b.LVM.Remove(ctx, b.name("s")), fault.Merging)
	b.Host.SetOpen(b.name("o"), 0)
	b.merged(t, "o", "s")
}

func mergeHalf(t *testing.T, b Bench) {
	b.linear("o")
	b.linear("p")
	b.create(t, "o", "os", 1)
	b.create(t, "p", "ps", 4)
	b.Host.Write(b.name("o"), 8*mib)
	refused(t, b.LVM.Merge(context.Background(), b.name("os"), b.name("ps")), fault.MergeFailed)
	if b.volume(t, "o").Merging {
		t.Error("the overflowed one merges")
	}
	b.merged(t, "p", "ps")
}

func mergeFillsSibling(t *testing.T, b Bench) {
	b.linear("o")
	b.create(t, "o", "first", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.create(t, "o", "second", 2)
	if used := b.volume(t, "second").COWUsed; used >= mib {
		t.Fatalf("a new snapshot uses %d bytes", used)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("first")))
	b.merged(t, "o", "first")
	if s := b.volume(t, "second"); s.State != lvm.Invalid {
		t.Errorf("16 MiB were merged under a COW of 8 MiB: %s, %d bytes used", s.State, s.COWUsed)
	}
}

func thinMerge(t *testing.T, b Bench) {
	b.thin("o")
	b.create(t, "o", "s", 0, "t")
	b.create(t, "o", "sibling", 0)
	before := b.volume(t, "o")
	if s := b.volume(t, "s"); !s.IsThinSnapshot() || s.Pool != "pool" || s.Origin != "o" || !s.Active || s.State != lvm.Active {
		t.Errorf("thin snapshot: %+v", s)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	if !b.gone(t, "s") {
		t.Fatal("a closed thin origin is replaced at once")
	}
	if o := b.volume(t, "o"); o.UUID != before.UUID || o.Merging {
		t.Errorf("origin: %+v, was %+v", o, before)
	}
	if s := b.volume(t, "sibling"); s.Origin != "" || s.OriginUUID != "" {
		t.Errorf("the sibling keeps its origin %s", s.Origin)
	}
}

func thinDeferred(t *testing.T, b Bench) {
	ctx := context.Background()
	b.thin("o")
	b.create(t, "o", "s", 0)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	if s := b.volume(t, "s"); !s.Merging || s.Active || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	b.Host.SetOpen(b.name("o"), 0)
	b.until(t, "thin merged", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("o")))
		return b.gone(t, "s")
	})
}

func suspended(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("a")
	b.linear("c")
	devices := []string{lvm.DMName(b.VG, "a"), lvm.DMName(b.VG, "c")}
	must(t, b.LVM.Suspend(ctx, devices...))
	t.Cleanup(func() { _ = b.LVM.Resume(ctx, devices...) })
	if v := b.volume(t, "a"); v.State != lvm.Suspended || !v.Suspended {
		t.Errorf("suspended: %+v", v)
	}
	b.create(t, "a", "as", 1)
	info, err := b.LVM.Info(ctx)
	must(t, err)
	if info[devices[0]].Suspended || !info[devices[1]].Suspended {
		t.Errorf("lvcreate resumes its own origin only: %v", info)
	}
	b.create(t, "c", "cs", 1)
	if v := b.volume(t, "c"); v.Suspended {
		t.Error("the second origin is still suspended")
	}
}

func resumeRest(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("a")
	b.linear("c")
	a, c := lvm.DMName(b.VG, "a"), lvm.DMName(b.VG, "c")
	must(t, b.LVM.Suspend(ctx, a, c))
	refused(t, b.LVM.Resume(ctx, a, b.VG+"-gone", c), fault.NotFound)
	if b.volume(t, "a").Suspended || b.volume(t, "c").Suspended {
		must(t, b.LVM.Resume(ctx, a, c))
		t.Error("one stayed suspended")
	}
	refused(t, b.LVM.Suspend(ctx, b.VG+"-gone"), fault.NotFound)
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
	refused(t, err, fault.NoSingleInstant)
	half := b.volume(t, "s")
	if half.State != lvm.MappedWithInactiveTable || half.Origin != "" || !slices.Equal(half.Tags, []string{"mine"}) {
		t.Errorf("half-made: %+v", half)
	}
	must(t, b.LVM.Remove(ctx, b.name("s")))
	must(t, b.LVM.Refresh(ctx, b.name("o")))
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
	refused(t, b.LVM.Deactivate(ctx, b.name("o")), fault.Busy)
	b.Host.SetOpen(b.name("o"), 0)
	b.until(t, "deactivated", func() bool { return b.LVM.Deactivate(ctx, b.name("o")) == nil })
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
	must(t, b.LVM.Suspend(ctx, lvm.DMName(b.VG, "o")))
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "s"}), fault.PoolDamaged)
	must(t, b.LVM.Resume(ctx, lvm.DMName(b.VG, "o")))
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "u"}), fault.PoolDamaged)
	if !damaged() {
		t.Error("the damage is not seen")
	}
}
