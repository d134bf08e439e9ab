package snapset

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

var taken = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

// snapshot is a member of a set of that name, id and count.
func snapshot(name, origin, set, id string, count int) lvmtest.Volume {
	return lvmtest.Volume{Name: name, Origin: origin, Size: 32 * mib, Tags: Label{Set: set, ID: id, Count: count, Time: taken}.tags()}
}

func TestSetsAreKnownByTheirTags(t *testing.T) {
	w := server(t)
	w.Make("vg00", snapshot("dat_snap", "dat", "snap", "1", 2))
	w.Make("vg00", snapshot("renamed", "pccehr", "snap", "1", 2))
	w.Make("vg00", lvmtest.Volume{Name: "shut_snap", Origin: "shut"}) // by hand, with a set's name
	set, err := Find(w.report(), "snap")
	if err != nil || set == nil {
		t.Fatal(set, err)
	}
	if diff := cmp.Diff([]string{"vg00/dat_snap", "vg00/renamed"}, names(set.Snapshots)); diff != "" {
		t.Error(diff)
	}
	if !set.Complete() || set.Check() != nil || !set.Time.Equal(taken) {
		t.Errorf("%+v: %v", set.Label, set.Check())
	}
	w.Rename("vg00/dat", "data")
	if set, err = Find(w.report(), "snap"); err != nil || set.Snapshots[0].Origin != "data" {
		t.Errorf("after a rename: %v %v", set, err)
	}
	if none, err := Find(w.report(), "other"); none != nil || err != nil {
		t.Error(none, err)
	}
}

func TestTwoSetsOfOneName(t *testing.T) {
	w := newWorld(t, lvmtest.Group{Name: "a", Volumes: []lvmtest.Volume{{Name: "dat"}, snapshot("dat_s", "dat", "s", "1", 1)}},
		lvmtest.Group{Name: "b", Volumes: []lvmtest.Volume{{Name: "dat"}, snapshot("dat_s", "dat", "s", "2", 1)}})
	_, err := Find(w.report(), "s")
	expect(t, err, fault.SetDiffers, "a/dat_s", "b/dat_s")
}

func TestCheckNamesEveryBadMember(t *testing.T) {
	w := server(t)
	w.Make("vg00", snapshot("dat_s", "dat", "s", "1", 3))
	w.Make("vg00", snapshot("pccehr_s", "pccehr", "s", "1", 3))
	w.Fill("vg00/dat_s", 100)
	w.Fill("vg00/pccehr_s", 100)
	set, err := Find(w.report(), "s")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, set.Check(), fault.SetDiffers, "of its snapshots only these are left: ", "vg00/dat_s: its COW space overflowed", "vg00/pccehr_s: its COW")
}

// What the journey's unit is asked and answers goes through files: nothing may change on the way.
func TestRequestPlanAndResultSurviveJSON(t *testing.T) {
	w := server(t)
	plan := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr", "/t1")})
	plan.Time = taken
	again := new(Plan)
	through(t, plan, again)
	if diff := cmp.Diff(plan, again); diff != "" {
		t.Error(diff)
	}
	request := Request{State: Mounted, Set: "s", Volumes: []Volume{{Name: "/dat", Size: "1g", Mountpoint: "/m", Options: "rw"}},
		Each: true, FreezeTimeout: time.Minute, Mount: MountOptions{Point: "/x", Create: true}}
	var sameRequest Request
	through(t, request, &sameRequest)
	if diff := cmp.Diff(request, sameRequest); diff != "" {
		t.Error(diff)
	}
	result := created(plan, Pause{"vg00/dat": 1500 * time.Microsecond}, "took")
	var back ansible.Result
	through(t, result, &back)
	var data struct {
		Snapshots []Taken `json:"snapshots"`
	}
	if err := back.Into(&data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(result.Data["snapshots"], data.Snapshots); diff != "" {
		t.Error(diff)
	}
	if !back.Changed || back.Msg != "took set s of vg00/dat, vg00/pccehr, vg00/t1; writes waited 2 ms at most" {
		t.Errorf("%+v", back)
	}
}

func through(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever the tags of a volume are: what is ours has a name and an id, and they are whole tags of it.
func FuzzLabelOf(f *testing.F) {
	f.Add("rewind:set=s", "rewind:id=1", "rewind:count=2")
	f.Add("rewind:set=", "rewind:time=99999999999999999999", "backup")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		tags := []string{a, b, c}
		l, ours := LabelOf(&lvm.Volume{Tags: tags})
		if ours != (l.Set != "" && l.ID != "") || ours && (!slices.Contains(tags, tagSet+l.Set) || !slices.Contains(tags, tagID+l.ID)) {
			t.Errorf("%q is %+v, ours: %v", tags, l, ours)
		}
	})
}
