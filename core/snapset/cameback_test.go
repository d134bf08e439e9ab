package snapset

import (
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// A root file system that is rolled back brings back the journal as it was when the set was taken. The set's other
// snapshots are not what an interrupted journey left.
func TestARecordThatCameBackWithItsVolumeIsNotUndone(t *testing.T) {
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "root", Snapshot: "root_s", Points: []string{"/"}, Method: ByLVM},
		{VG: "vg00", LV: "dat", Snapshot: "dat_s", Points: []string{"/dat"}},
	}}
	snapshot := func(name, origin string, more ...string) lvmtest.Volume {
		return lvmtest.Volume{Name: name, Origin: origin, Tags: append([]string{"rewind:set=s", "rewind:id=id-1"}, more...)}
	}
	for name, c := range map[string]struct {
		there []lvmtest.Volume
		back  bool
	}{
		"interrupted before the first": {nil, false},
		"interrupted after the first":  {[]lvmtest.Volume{snapshot("root_s", "root")}, false},
		"interrupted after the second": {[]lvmtest.Volume{snapshot("root_s", "root"), snapshot("dat_s", "dat")}, false},
		"interrupted at its removal":   {[]lvmtest.Volume{snapshot("dat_s", "dat")}, false},
		"the first was merged":         {[]lvmtest.Volume{snapshot("dat_s", "dat", "rewind:count=2")}, true},
	} {
		w := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: append([]lvmtest.Volume{{Name: "root"}, {Name: "dat"}}, c.there...)})
		if _, home := p.cameBack(w.report(), "/"); home != nil != c.back {
			t.Errorf("%s: came back: %v", name, home)
		}
		if _, home := p.cameBack(w.report(), "/var"); home != nil {
			t.Errorf("%s: the journal lies elsewhere", name)
		}
	}
	for tag, back := range map[string]bool{BackTag("id-1"): true, BackTag("id-2"): false} {
		w := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "root", Tags: []string{tag}}, {Name: "dat"}}})
		if _, home := p.cameBack(w.report(), "/"); home != nil != back {
			t.Errorf("all were merged, and the volume has the tag %s: came back: %v", tag, home)
		}
	}
}

// What merges since the boot that rolled the journal back is nobody else's to end.
func TestMergesThatBeganAtBootAreEnded(t *testing.T) {
	w := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root", Open: 1, Tags: []string{"mine", BackTag("id-1")}}, {Name: "root_s", Origin: "root", Tags: []string{"rewind:set=s", "rewind:id=id-1", "rewind:count=2"}},
	}})
	if err := w.lvm.Merge(t.Context(), "vg00/root_s"); err != nil {
		t.Fatal(err)
	}
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{{VG: "vg00", LV: "root", Snapshot: "root_s", Points: []string{"/"}}}}
	rest, home := p.cameBack(w.report(), "/")
	if len(rest) != 1 || !AllMerging(rest) || home == nil {
		t.Fatalf("left: %+v", rest)
	}
	set, err := Find(w.report(), "s")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, set.Check(), fault.Merging, "vg00/root_s is all that is not merged yet")
	failed := *set
	failed.Snapshots = []*lvm.Volume{{VG: "vg00", Name: "root_s", Origin: "root", Merging: true, State: lvm.MergeFailed}}
	expect(t, failed.Check(), fault.SetDiffers, "of its snapshots only these are left: ", "vg00/root_s: ")
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	trip := &journey.Trip{Journal: j}
	if err := fault.All(trip.Begin(Kind, "s", []string{"vg00"}, "taking", p), endMerges(t.Context(), trip, w.lvm, rest, home)); err != nil {
		t.Fatal(err)
	}
	if e := trip.Entry(); e.Step != StepRolledBack || e.Outcome != journal.Done {
		t.Errorf("recorded as %s, %s", e.Step, e.Outcome)
	}
	ran := w.Commands()
	if polled := strings.Join(ran[len(ran)-2], " "); !strings.Contains(polled, "--poll y") || !strings.HasSuffix(polled, "vg00/root") {
		t.Errorf("ran %s", polled)
	}
	if root, _ := w.report().Volume("vg00", "root"); !slices.Equal(root.Tags, []string{"mine"}) {
		t.Errorf("the volume has the tags %v", root.Tags)
	}
}
