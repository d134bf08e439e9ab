package snapset

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// If a root file system is rolled back, the journal is again as it was when the set was being taken. The set's other
// snapshots are not leftovers of an interrupted run then.
func TestJournalRollbackIsRecognized(t *testing.T) {
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "root", Snapshot: "root_s", Points: []string{"/"}, Method: ByLVM},
		{VG: "vg00", LV: "dat", Snapshot: "dat_s", Points: []string{"/dat"}},
	}}
	snapshot := func(name, origin string, more ...string) lvmtest.Volume {
		return lvmtest.Volume{Name: name, Origin: origin, Tags: append([]string{"rewind:set=s", "rewind:id=id-1"}, more...)}
	}
	for name, c := range map[string]struct {
		snapshots  []lvmtest.Volume // that are left
		rolledBack bool             // the journal was
	}{
		"interrupted before the first": {nil, false},
		"interrupted after the first":  {[]lvmtest.Volume{snapshot("root_s", "root")}, false},
		"interrupted after the second": {[]lvmtest.Volume{snapshot("root_s", "root"), snapshot("dat_s", "dat")}, false},
		"interrupted at its removal":   {[]lvmtest.Volume{snapshot("dat_s", "dat")}, false},
		"the first was merged":         {[]lvmtest.Volume{snapshot("dat_s", "dat", "rewind:count=2")}, true},
	} {
		volumes := append([]lvmtest.Volume{{Name: "root"}, {Name: "dat"}}, c.snapshots...)
		srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: volumes})
		if _, journalVolume := p.journalRollback(srv.report(), "/"); journalVolume != nil != c.rolledBack {
			t.Errorf("%s: the journal was rolled back on %v", name, journalVolume)
		}
		if _, journalVolume := p.journalRollback(srv.report(), "/var"); journalVolume != nil {
			t.Errorf("%s: the journal lies elsewhere", name)
		}
	}
	for tag, rolledBack := range map[string]bool{RollbackTag("id-1"): true, RollbackTag("id-2"): false} {
		srv := newTestServer(t, lvmtest.Group{
			Name: "vg00", Volumes: []lvmtest.Volume{{Name: "root", Tags: []string{tag}}, {Name: "dat"}},
		})
		if _, journalVolume := p.journalRollback(srv.report(), "/"); journalVolume != nil != rolledBack {
			t.Errorf("all were merged, and the volume has the tag %s: the journal was rolled back on %v",
				tag, journalVolume)
		}
	}
}

// A snapshot that is held open cannot be removed. If that of the volume that holds the journal were gone then, the next
// boot would take the rest for a set to which the journal was rolled back, and leave it.
func TestUndoRemovesSnapshotOfJournalLast(t *testing.T) {
	tags := []string{"rewind:set=s", "rewind:id=id-1", "rewind:count=2"}
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root"}, {Name: "dat"},
		{Name: "root_s", Origin: "root", Tags: tags}, {Name: "dat_s", Origin: "dat", Tags: tags},
	}})
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "root", DMName: "vg00-root", Snapshot: "root_s", Points: []string{"/"}, Home: true},
		{VG: "vg00", LV: "dat", DMName: "vg00-dat", Snapshot: "dat_s", Points: []string{"/dat"}},
	}}
	srv.FailOn(errors.New("in use"), "lvremove")
	if err := Undo(t.Context(), srv.lvm, p); err == nil {
		t.Error("no error")
	}
	if _, journalVolume := p.journalRollback(srv.report(), "/"); journalVolume != nil {
		t.Error("the journal seems to be rolled back")
	}
	if err := Undo(t.Context(), srv.lvm, p); err != nil || len(srv.report().ByTag(tagID+"id-1")) > 0 {
		t.Error(err)
	}
}

// No other run finishes the merges that began at the boot that rolled the journal back.
func TestFinishMergesThatBeganAtBoot(t *testing.T) {
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root", Open: 1, Tags: []string{"mine", RollbackTag("id-1")}},
		{Name: "root_s", Origin: "root", Tags: []string{"rewind:set=s", "rewind:id=id-1", "rewind:count=2"}},
	}})
	if err := srv.lvm.Merge(t.Context(), "vg00/root_s"); err != nil {
		t.Fatal(err)
	}
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "root", Snapshot: "root_s", Points: []string{"/"}},
	}}
	remaining, journalVolume := p.journalRollback(srv.report(), "/")
	if len(remaining) != 1 || !AllMerging(remaining) || journalVolume == nil {
		t.Fatalf("left: %+v", remaining)
	}
	set, err := Find(srv.report(), "s")
	if err != nil {
		t.Fatal(err)
	}
	expectFault(t, set.Check(), fault.Merging, "vg00/root_s is all that is not merged yet")
	failed := *set
	failed.Snapshots = []*lvm.Volume{
		{VG: "vg00", Name: "root_s", Origin: "root", Merging: true, State: lvm.MergeFailed},
	}
	expectFault(t, failed.Check(), fault.SetDiffers, "of its snapshots only these are left: ", "vg00/root_s: ")
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run := &journey.Run{Journal: j}
	if err := run.Begin(Kind, "s", []string{"vg00"}, "taking", p); err != nil {
		t.Fatal(err)
	}
	if err := finishMerges(t.Context(), run, srv.lvm, remaining, journalVolume); err != nil {
		t.Fatal(err)
	}
	if e := run.Entry(); e.Step != StepRolledBack || e.Outcome != journal.Done {
		t.Errorf("recorded as %s, %s", e.Step, e.Outcome)
	}
	ran := srv.Commands()
	poll := strings.Join(ran[len(ran)-2], " ")
	if !strings.Contains(poll, "--poll y") || !strings.HasSuffix(poll, "vg00/root") {
		t.Errorf("ran %s", poll)
	}
	if root, _ := srv.report().Volume("vg00", "root"); !slices.Equal(root.Tags, []string{"mine"}) {
		t.Errorf("the volume has the tags %v", root.Tags)
	}
}
