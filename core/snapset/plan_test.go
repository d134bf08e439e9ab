package snapset

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// newServer returns a server with two thick volumes that are mounted, an active one that is not, an inactive one, and
// two thin ones that are mounted.
func newServer(t *testing.T) *testServer {
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "dat", Size: 1024 * mib}, {Name: "pccehr", Size: 512 * mib}, {Name: "shut"}, {Name: "off", Inactive: true},
		{Name: "pool", Kind: lvm.ThinPool, Size: 512 * mib}, {Name: "t1", Pool: "pool"}, {Name: "t2", Pool: "pool"},
	}})
	srv.mounts = []filesystem.Mount{
		{ID: 1, Dev: filesystem.Dev{Major: 8, Minor: 1}, Root: "/", Point: "/", Type: "ext4", Source: "/dev/sda1"},
	}
	srv.mount("vg00/dat", "/dat", "xfs")
	srv.mount("vg00/pccehr", "/pccehr", "ext4")
	srv.mount("vg00/t1", "/t1", "xfs")
	srv.mount("vg00/t2", "/t2", "xfs")
	return srv
}

func TestChooseMethods(t *testing.T) {
	for name, c := range map[string]struct {
		volumes []Volume
		each    bool
		want    []Method
	}{
		"thick":          {volumes: volumesNamed("/dat", "vg00/pccehr"), want: []Method{Held, Held}},
		"closed":         {volumes: volumesNamed("/dat", "vg00/shut"), want: []Method{Held, Held}},
		"inactive":       {volumes: volumesNamed("/dat", "vg00/off"), want: []Method{Held, Closed}},
		"alone":          {volumes: volumesNamed("/dat"), want: []Method{ByLVM}},
		"thin, alone":    {volumes: volumesNamed("/t1"), want: []Method{ByLVM}},
		"each by itself": {volumes: volumesNamed("/dat", "/t1"), each: true, want: []Method{ByLVM, ByLVM}},
		"thin":           {volumes: volumesNamed("/t1", "/t2"), want: []Method{Held, Held}},
		"thin and thick": {volumes: volumesNamed("/t1", "/dat"), want: []Method{Held, Held}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newServer(t).mustPlan(SetSpec{Set: "s", Volumes: c.volumes, Each: c.each})
			var got []Method
			for _, m := range p.Members {
				got = append(got, m.Method)
				if m.Target != nil {
					t.Errorf("%s, which is not encrypted, has target %v", m.origin(), m.Target)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The device of a thin volume with thick snapshots belongs to these snapshots, and that of an external origin to its
// thin volumes.
func TestVolumesThatCannotBeHeldAreRefused(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", lvmtest.Volume{Name: "mine", Kind: lvm.Snapshot, Origin: "t1"})
	_, err := srv.plan(SetSpec{Set: "s", Volumes: volumesNamed("/t1", "/dat")})
	expectFault(t, err, fault.NoSingleInstant, "vg00/t1 is thin and has thick snapshots (vg00/mine)")
	view := srv.view()
	targets, err := view.Resolve(volumesNamed("/dat", "/pccehr"))
	if err != nil {
		t.Fatal(err)
	}
	targets[0].LV.IsExternalOrigin = true
	_, err = view.New(SetSpec{Set: "s"}, "id-1", targets)
	expectFault(t, err, fault.NoSingleInstant, "vg00/dat is the external origin of thin volumes")
	srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/t1")})
	srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/t1", "/dat"), Each: true})
}

// The snapshot of the volume that holds the journal is made first, so that no other snapshot exists without it.
func TestJournalVolumeIsSnapshottedFirst(t *testing.T) {
	srv := newServer(t)
	srv.journalDir = "/pccehr"
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr", "vg00/shut")})
	if first := p.creationOrder()[0]; first.LV != "pccehr" || !first.Home {
		t.Errorf("%s is first", first.origin())
	}
}

func TestCOWSizes(t *testing.T) {
	for name, c := range map[string]struct {
		size    string
		volumes []Volume
		want    []int64 // MiB
	}{
		"a fifth of the origin": {volumes: volumesNamed("/dat", "/pccehr"), want: []int64{208, 104}},
		"at least the floor":    {volumes: volumesNamed("vg00/shut"), want: []int64{32}},
		"asked for all":         {size: "100m", volumes: volumesNamed("/dat", "/pccehr"), want: []int64{100, 100}},
		"a bare number is MiB":  {size: "64", volumes: volumesNamed("/dat"), want: []int64{64}},
		"of the origin, as lvcreate does": {
			size: "10%ORIGIN", volumes: volumesNamed("/dat", "/pccehr"), want: []int64{112, 56},
		},
		"one has its own": {
			size: "100m", volumes: []Volume{{Name: "/dat", Size: "40m"}, {Name: "/pccehr"}}, want: []int64{40, 100},
		},
		"no more than can be used": {size: "2g", volumes: volumesNamed("vg00/shut"), want: []int64{68}},
		"thin needs none":          {size: "1g", volumes: volumesNamed("/t1"), want: []int64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newServer(t).mustPlan(SetSpec{Set: "s", Size: c.size, Volumes: c.volumes})
			var got []int64
			for _, m := range p.Members {
				got = append(got, m.COW/mib)
				if !m.Thin && m.Extents != m.COW/(4*mib) {
					t.Errorf("%s: %d extents for %d bytes", m.origin(), m.Extents, m.COW)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPlanRefusesTooLittleFreeSpace(t *testing.T) {
	crowded := func(free int64) *testServer {
		return newTestServer(t, lvmtest.Group{Name: "vg", Size: (200 + free) * mib, Volumes: []lvmtest.Volume{
			{Name: "a", Size: 100 * mib}, {Name: "b", Size: 100 * mib},
		}})
	}
	both := volumesNamed("vg/a", "vg/b")
	_, err := crowded(60).plan(SetSpec{Set: "s", Volumes: both})
	expectFault(t, err, fault.NoSpace, "60.0 MiB free", "needs 64.0 MiB")
	_, err = crowded(100).plan(SetSpec{Set: "s", Size: "52m", Volumes: both})
	expectFault(t, err, fault.NoSpace, "needs 104.0 MiB")
	p := crowded(76).mustPlan(SetSpec{Set: "s", Volumes: both})
	if got := p.Members[0].COW + p.Members[1].COW; got != 64*mib { // a tenth stays free
		t.Errorf("%d MiB", got/mib)
	}

	// A small volume beside a large one keeps what it needs.
	srv := newTestServer(t, lvmtest.Group{Name: "vg", Size: (10100 + 1000) * mib, Volumes: []lvmtest.Volume{
		{Name: "large", Size: 10000 * mib}, {Name: "small", Size: 100 * mib}, {Name: "tiny", Size: 8 * mib},
	}})
	p = srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("vg/large", "vg/small", "vg/tiny")})
	large, small, tiny := p.Members[0].COW/mib, p.Members[1].COW/mib, p.Members[2].COW/mib
	if small != 32 || tiny > 12 || large < 800 || large+small+tiny > 900 {
		t.Errorf("large %d MiB, small %d, tiny %d", large, small, tiny)
	}
}

func TestVolumeThatPvmoveMovesIsRefused(t *testing.T) {
	srv := newServer(t)
	view := srv.view()
	targets, err := view.Resolve(volumesNamed("/dat", "/pccehr"))
	if err != nil {
		t.Fatal(err)
	}
	targets[0].LV.Locked = true
	_, err = view.New(SetSpec{Set: "s"}, "id-1", targets)
	expectFault(t, err, fault.Unsupported, "vg00/dat is locked by LVM", "pvmove")
}

func TestAllObstaclesAreNamed(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", lvmtest.Volume{Name: "dat_s", Origin: "dat"})
	srv.Make("vg00", lvmtest.Volume{Name: "pccehr_s"})
	_, err := srv.plan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr", "vg00/shut")})
	expectFault(t, err, fault.Exists,
		"vg00/dat_s exists: a snapshot made by hand", "vg00/pccehr_s exists and is not Rewind's")
	volumes := volumesNamed("/dat", "vg00/none", "/nowhere", "/", "vg00/pool", "vg00/dat_s", "vg00/dat")
	_, err = srv.plan(SetSpec{Set: "s", Volumes: volumes})
	expectFault(t, err, fault.NotFound, "vg00/none", "/nowhere", "volumes: / is on", "vg00/dat_s is itself a snapshot",
		"/dat and vg00/dat are the same volume")
}

func TestNamesAndTags(t *testing.T) {
	p := newServer(t).mustPlan(SetSpec{Set: "before-upgrade", Volumes: volumesNamed("/dat", "/t1")})
	want := []string{"vg00/dat_before-upgrade", "vg00/t1_before-upgrade"}
	var got []string
	for _, m := range p.Members {
		got = append(got, m.snapshot())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"vg00"}, p.Groups()); diff != "" {
		t.Error(diff)
	}
	label, ok := LabelOf(&lvm.Volume{Tags: append(p.label().tags(), "other")})
	if !ok || label.Set != "before-upgrade" || label.ID != "id-1" || label.Count != 2 ||
		label.Time.Unix() != p.Time.Unix() {
		t.Errorf("%+v", label)
	}
	if _, inSet := LabelOf(&lvm.Volume{Name: "dat_snap", Tags: []string{"rewind:set=snap"}}); inSet {
		t.Error("a set without an id")
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"snap", "before-upgrade", "2026.11", "a+b", "_x"} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
	long := make([]byte, maxName+1)
	for i := range long {
		long[i] = 'a'
	}
	for _, bad := range []string{"", "-x", ".x", "a/b", "a b", "a\nb", "ä", "a_cdata", "mimage_", string(long)} {
		if err := CheckName(bad); bad != "mimage_" && err == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

// A set that is to be taken again gives its space back in the plan: that of thick snapshots, for thin ones have none.
func TestRemoveFromReportFreesTheSpaceOfThickSnapshots(t *testing.T) {
	set := &Set{Snapshots: []*lvm.Volume{
		{VG: "vg00", UUID: "a", Kind: lvm.Snapshot, Size: 32 * mib},
		{VG: "vg00", UUID: "b", Kind: lvm.Thin, Size: 1024 * mib},
	}}
	report := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Free: 8 * mib}}}
	removeFromReport(report, set)
	if free := report.Groups[0].Free; free != 40*mib {
		t.Errorf("%d bytes are free, want %d", free, 40*mib)
	}
}
