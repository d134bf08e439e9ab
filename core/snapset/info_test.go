package snapset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// info returns what Look would return on the test server.
func (srv *testServer) info(q Query) *Info {
	srv.t.Helper()
	status, err := srv.lvm.Status(srv.t.Context())
	if err != nil {
		srv.t.Fatal(err)
	}
	insp := &inspection{
		Query: q, view: srv.view(), status: status, pvs: map[filesystem.Dev]bool{}, readAt: takenAt.Add(90 * time.Second),
	}
	info := new(Info)
	if err := insp.collect(info); err != nil {
		srv.t.Fatal(err)
	}
	return info
}

func TestInfo(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_snap", "dat", "snap", "1", 2))
	srv.Make("vg00", memberSnapshot("pccehr_snap", "pccehr", "snap", "1", 2))
	srv.Make("vg00", lvmtest.Volume{Name: "byhand", Origin: "dat", Size: 64 * mib})
	srv.Fill("vg00/dat_snap", 50)
	srv.Fill("vg00/byhand", 100)
	srv.mount("vg00/dat_snap", "/mnt/dat", "xfs")
	info := srv.info(Query{})
	if len(info.Sets) != 1 || len(info.Unmanaged) != 1 {
		t.Fatalf("%+v", info)
	}
	set, unmanaged := info.Sets[0], info.Unmanaged[0]
	if set.State != SetOK || set.Age != 90 || set.Time != "2026-11-23T20:00:00Z" || set.Count != 2 {
		t.Errorf("%+v", set)
	}
	dat := set.Snapshots[0]
	if dat.Volume != "vg00/dat" || dat.COW != 32*mib || dat.Used != 16*mib || *dat.UsedPercent != 50 ||
		dat.State != "active" {
		t.Errorf("%+v", dat)
	}
	if diff := cmp.Diff([][]string{{"/mnt/dat"}, {"/dat"}}, [][]string{dat.Mountpoints, dat.OriginAt}); diff != "" {
		t.Error(diff)
	}
	if dat.ToFull == nil || *dat.ToFull != dat.Age || dat.Age < minRateAge {
		t.Errorf("half full after %d s, it is full in %v", dat.Age, dat.ToFull)
	}
	if unmanaged.ToFull != nil {
		t.Errorf("an overflowed snapshot is full in %d s", *unmanaged.ToFull)
	}
	if unmanaged.State != "invalid" || *unmanaged.UsedPercent != 100 ||
		!strings.Contains(unmanaged.Problem, "overflowed") {
		t.Errorf("%+v", unmanaged)
	}
	want := MountInfo{
		Point: "/mnt/dat", Volume: "vg00/dat_snap", Type: "xfs",
		Stack: []Layer{{"fs", "xfs"}, {"lvm", "vg00-dat_snap"}},
	}
	if diff := cmp.Diff(want, info.Mounts[len(info.Mounts)-1]); diff != "" {
		t.Error(diff)
	}
	if g := info.Groups[0]; g.Name != "vg00" || len(g.Pools) != 1 || g.Pools[0].Pool != "vg00/pool" {
		t.Errorf("%+v", g)
	}
}

func TestInfoOfOneSet(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_snap", "dat", "snap", "1", 1))
	srv.Make("vg00", memberSnapshot("pccehr_x", "pccehr", "x", "2", 1))
	srv.Make("vg00", lvmtest.Volume{Name: "byhand", Origin: "dat"})
	info := srv.info(Query{Set: "x"})
	if len(info.Sets) != 1 || info.Sets[0].Name != "x" || len(info.Unmanaged) != 0 ||
		len(info.Mounts) != 1 || info.Mounts[0].Point != "/pccehr" {
		t.Errorf("%+v", info)
	}
	if info.None != "" {
		t.Error(info.None)
	}
	if none := srv.info(Query{Set: "y"}).None; none != `there is no set "y"; there is snap, x` {
		t.Error(none)
	}
	if info = srv.info(Query{VG: "other"}); len(info.Sets)+len(info.Unmanaged)+len(info.Mounts)+len(info.Groups) != 0 {
		t.Errorf("of another group: %+v", info)
	}
}

func TestInfoOfAMerge(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("shut_s", "shut", "s", "1", 2))
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	srv.Fill("vg00/shut_s", 50)
	if err := srv.lvm.Merge(t.Context(), "vg00/shut_s", "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	srv.Tick() // half is merged
	shut, _ := srv.report().Volume("vg00", "shut_s")
	set := srv.info(Query{Merging: map[string]int64{shut.UUID: 16 * mib}}).Sets[0]
	if set.State != SetMerging {
		t.Errorf("%+v", set)
	}
	open, closed := set.Snapshots[0].Merge, set.Snapshots[1].Merge
	if open == nil || open.State != MergeDeferred { // it is mounted
		t.Errorf("%+v", open)
	}
	if closed == nil || closed.State != MergeRunning || closed.Percent == nil ||
		*closed.Percent < 49 || *closed.Percent > 51 || closed.Left < 7*mib {
		t.Errorf("%+v", closed)
	}
	srv.KillPoller()
	for range 20 {
		srv.Tick()
	}
	if m := srv.info(Query{}).Sets[0].Snapshots[1].Merge; m == nil || m.State != MergeFinished || m.Left != 0 {
		t.Errorf("%+v", m)
	}
}

func TestInfoOfABrokenSet(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	if set := srv.info(Query{}).Sets[0]; set.State != SetIncomplete {
		t.Errorf("%+v", set)
	}
	srv.Fill("vg00/dat_s", 100)
	if set := srv.info(Query{}).Sets[0]; set.State != SetBad || set.Snapshots[0].State != "invalid" {
		t.Errorf("%+v", set)
	}
}

// Whichever member is looked at first: a failed merge must not be hidden by one that goes on.
func TestInfoOfAFailedMerge(t *testing.T) {
	for _, failed := range []string{"shut", "dat"} {
		srv := newServer(t)
		srv.Make("vg00", memberSnapshot("shut_s", "shut", "s", "1", 2))
		srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
		srv.Fill("vg00/shut_s", 50)
		if err := srv.lvm.Merge(t.Context(), "vg00/shut_s", "vg00/dat_s"); err != nil {
			t.Fatal(err)
		}
		srv.Fill("vg00/"+failed+"_s", 100)
		set := srv.info(Query{}).Sets[0]
		if set.State != SetBad {
			t.Errorf("%s_s is lost while it merges: %+v", failed, set)
		}
	}
}

func TestInspectHost(t *testing.T) {
	root := t.TempDir()
	for file, text := range map[string]string{
		"proc/modules":                       "xfs 1 1 - Live 0x0\ndm_snapshot_other 1 0 - Live\n",
		"lib/modules/6.12.5/modules.dep":     "kernel/drivers/md/dm-snapshot.ko.xz: kernel/drivers/md/dm-bufio.ko.xz\n",
		"lib/modules/6.12.5/modules.builtin": "kernel/drivers/md/dm-thin-pool.ko\n",
		"run/systemd/system/x":               "",
	} {
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	h := inspectHost(root, "6.12.5", "", "2.03.31(2)", nil)
	want := Host{Usable: true, Kernel: "6.12.5", LVM: "2.03.31(2)", Systemd: true,
		Modules: map[string]string{"dm_snapshot": "loadable", "dm_thin_pool": "builtin"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	h = inspectHost(t.TempDir(), "6.12.5", "lxc", "", errors.New("not installed"))
	said := strings.Join(h.Problems, "; ")
	for _, word := range []string{
		"container (lxc)", "LVM: not installed", "systemd", "neither dm_snapshot nor dm_thin_pool",
	} {
		if h.Usable || !strings.Contains(said, word) {
			t.Errorf("%q does not say %s", said, word)
		}
	}
}
