package snapset

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

var takenAt = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

// memberSnapshot returns a snapshot that is a member of a set of that name, ID and count.
func memberSnapshot(name, origin, set, id string, count int) lvmtest.Volume {
	label := Label{Set: set, ID: id, Count: count, Time: takenAt}
	return lvmtest.Volume{Name: name, Origin: origin, Size: 32 * mib, Tags: label.tags()}
}

func TestFindIdentifiesSetsByTags(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_snap", "dat", "snap", "1", 2))
	srv.Make("vg00", memberSnapshot("renamed", "pccehr", "snap", "1", 2))
	srv.Make("vg00", lvmtest.Volume{Name: "shut_snap", Origin: "shut"}) // by hand, with a set's name
	set, err := Find(srv.report(), "snap")
	if err != nil || set == nil {
		t.Fatal(set, err)
	}
	if diff := cmp.Diff([]string{"vg00/dat_snap", "vg00/renamed"}, fullNames(set.Snapshots)); diff != "" {
		t.Error(diff)
	}
	if !set.Complete() || set.Check() != nil || !set.Time.Equal(takenAt) {
		t.Errorf("%+v: %v", set.Label, set.Check())
	}
	srv.Rename("vg00/dat", "data")
	if set, err = Find(srv.report(), "snap"); err != nil || set.Snapshots[0].Origin != "data" {
		t.Errorf("after a rename: %v %v", set, err)
	}
	if none, err := Find(srv.report(), "other"); none != nil || err != nil {
		t.Error(none, err)
	}
}

func TestFindRefusesTwoSetsOfOneName(t *testing.T) {
	srv := newTestServer(t,
		lvmtest.Group{Name: "a", Volumes: []lvmtest.Volume{{Name: "dat"}, memberSnapshot("dat_s", "dat", "s", "1", 1)}},
		lvmtest.Group{Name: "b", Volumes: []lvmtest.Volume{{Name: "dat"}, memberSnapshot("dat_s", "dat", "s", "2", 1)}})
	_, err := Find(srv.report(), "s")
	expectFault(t, err, fault.SetDiffers, "a/dat_s", "b/dat_s")
}

func TestCheckNamesEveryBadMember(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 3))
	srv.Make("vg00", memberSnapshot("pccehr_s", "pccehr", "s", "1", 3))
	srv.Fill("vg00/dat_s", 100)
	srv.Fill("vg00/pccehr_s", 100)
	set, err := Find(srv.report(), "s")
	if err != nil {
		t.Fatal(err)
	}
	expectFault(t, set.Check(), fault.SetDiffers, "of its snapshots only these are left: ",
		"vg00/dat_s: its COW space overflowed", "vg00/pccehr_s: its COW")
}

// LVM merges a thin snapshot only into its origin. One whose origin was removed, or replaced by a merge, is there and
// healthy, and nothing can be rolled back to it. A backup only reads its set.
func TestCheckRefusesThinMemberWithoutOrigin(t *testing.T) {
	for name, loseOrigin := range map[string]func(srv *testServer){
		"removed": func(srv *testServer) {
			srv.SetOpen("vg00/t1", 0)
			srv.Remove("vg00/t1")
		},
		"replaced": func(srv *testServer) {
			srv.Make("vg00", lvmtest.Volume{Name: "other", Origin: "t1", Kind: lvm.Thin})
			srv.SetOpen("vg00/t1", 0)
			if err := srv.lvm.Merge(t.Context(), "vg00/other"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		srv := newServer(t)
		thin := memberSnapshot("t1_s", "t1", "s", "1", 2)
		thin.Kind = lvm.Thin
		srv.Make("vg00", thin)
		srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
		if err := srv.operation(Request{}).set.Check(); err != nil {
			t.Fatalf("as taken: %v", err)
		}
		loseOrigin(srv)
		op := srv.operation(Request{State: Present, Replace: true})
		_, err := op.makePresent(t.Context())
		expectFault(t, err, fault.Unsupported, "vg00/t1_s has no origin any more")
		if hint := fault.Of(err).Hint; !strings.Contains(hint, "lvchange --deltag rewind:id=1 vg00/t1_s") {
			t.Errorf("%s: hint %q", name, hint)
		}
		if set := srv.info(Query{}).Sets[0]; set.State != SetBad {
			t.Errorf("%s: lvm_snapshot_info: %s", name, set.State)
		}
		if op.set.Use = ForBackup; op.set.Check() != nil {
			t.Errorf("%s: a backup is kept from reading: %v", name, op.set.Check())
		}
	}
}

// Who finds an incomplete set is told which volumes cannot be rolled back by it.
func TestIncompleteSetNamesWhatIsMissing(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr", "/t1")})
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	srv.Remove("vg00/pccehr_s")
	srv.Rename("vg00/dat", "data") // its snapshot is still there
	set, err := Find(srv.report(), "s")
	if err != nil {
		t.Fatal(err)
	}
	expectFault(t, set.Check(), fault.SetDiffers, "these are left: vg00/dat_s, vg00/t1_s; there is none of vg00/pccehr")
	if missing := srv.info(Query{}).Sets[0].Missing; !slices.Equal(missing, []string{"vg00/pccehr"}) {
		t.Errorf("lvm_snapshot_info: %q", missing)
	}
	srv.Rename("vg00/t1", "thin")
	srv.Rename("vg00/t1_s", "kept") // now nothing tells of which volume that one is
	if set, err = Find(srv.report(), "s"); err != nil || set.Missing() != nil {
		t.Errorf("after renames: %q, %v", set.Missing(), err)
	}
	for n := range 100 {
		p.Members = append(p.Members, &Member{VG: "vg00", LV: fmt.Sprintf("volume-%d", n)})
	}
	for _, tag := range p.label().tags() {
		if strings.HasPrefix(tag, tagVolumes) {
			t.Errorf("a tag of %d bytes", len(tag))
		}
	}
}

// The request and the answer of a run's unit go through files: nothing may change on the way.
func TestRequestPlanAndResultSurviveJSON(t *testing.T) {
	srv := newServer(t)
	plan := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr", "/t1")})
	plan.Time = takenAt
	again := new(Plan)
	roundTrip(t, plan, again)
	if diff := cmp.Diff(plan, again); diff != "" {
		t.Error(diff)
	}
	request := Request{
		State: Mounted, Set: "s", Volumes: []Volume{{Name: "/dat", Size: "1g", Mountpoint: "/m", Options: "rw"}},
		Each: true, FreezeTimeout: time.Minute, Mount: MountOptions{Point: "/x", Create: true},
	}
	var sameRequest Request
	roundTrip(t, request, &sameRequest)
	if diff := cmp.Diff(request, sameRequest); diff != "" {
		t.Error(diff)
	}
	taken := newSetResult(plan, Pause{"vg00/dat": 1500 * time.Microsecond}, "took")
	var back ansible.Result
	roundTrip(t, taken.ForAnsible(), &back)
	var data struct {
		Snapshots []Taken `json:"snapshots"`
	}
	if err := back.Into(&data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(taken.Snapshots, data.Snapshots); diff != "" {
		t.Error(diff)
	}
	if !back.Changed || back.Msg != "took set s of vg00/dat, vg00/pccehr, vg00/t1; writes waited 2 ms at most" {
		t.Errorf("%+v", back)
	}
}

// roundTrip encodes a value as JSON and decodes it into another one.
func roundTrip(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever tags a volume has: if it belongs to a set, that set has a name and an ID, and each of them is the whole rest
// of a tag.
func FuzzLabelOf(f *testing.F) {
	f.Add("rewind:set=s", "rewind:id=1", "rewind:count=2")
	f.Add("rewind:set=", "rewind:time=99999999999999999999", "backup")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		tags := []string{a, b, c}
		l, inSet := LabelOf(&lvm.Volume{Tags: tags})
		if inSet != (l.Set != "" && l.ID != "") ||
			inSet && (!slices.Contains(tags, tagSet+l.Set) || !slices.Contains(tags, tagID+l.ID)) {
			t.Errorf("%q is %+v, in a set: %v", tags, l, inSet)
		}
	})
}
