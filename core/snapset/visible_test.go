package snapset

import (
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// serverWithSetInTwoGroups returns a server with the set s of vg00/dat and vg01/log, each of which has a file system.
func serverWithSetInTwoGroups(t *testing.T) (*testServer, *Plan) {
	t.Helper()
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}}},
		lvmtest.Group{Name: "vg01", Volumes: []lvmtest.Volume{{Name: "log"}}})
	p := &Plan{Set: "s", ID: "1", Time: takenAt, Members: []*Member{
		{VG: "vg00", LV: "dat", DMName: "vg00-dat", Snapshot: "dat_s", Points: []string{"/"}, Home: true},
		{VG: "vg01", LV: "log", DMName: "vg01-log", Snapshot: "log_s"},
	}}
	for _, m := range p.Members {
		srv.Make(m.VG, lvmtest.Volume{Name: m.Snapshot, Origin: m.LV, Size: 32 * mib, Tags: p.label().tags()})
	}
	return srv, p
}

// expectGroupFault fails the test unless err says that vg01 is not visible, and what to do.
func expectGroupFault(t *testing.T, err error) {
	t.Helper()
	expectFault(t, err, fault.NotFound, "LVM does not see volume group vg01")
	if err == nil {
		return
	}
	if hint := fault.Of(err).Hint; !strings.Contains(hint, "vgs") || !strings.Contains(hint, "pvs") {
		t.Errorf("hint %q", hint)
	}
}

// What a run left behind in a group whose disk is late is found only when the disk is there.
func TestUndoIsUnfinishedWhileGroupIsNotVisible(t *testing.T) {
	for _, name := range []string{"creation", "removal"} {
		srv, p := serverWithSetInTwoGroups(t)
		if name == "removal" {
			p = srv.operation(Request{}).set.removalPlan(nil)
		}
		srv.SetHidden("vg01", true)
		expectGroupFault(t, Undo(t.Context(), srv.lvm, p))
		srv.SetHidden("vg01", false)
		if err := Undo(t.Context(), srv.lvm, p); err != nil {
			t.Error(err)
		}
		srv.assertUntouched("vg00/dat", "vg01/log")
	}
}

// If the snapshot of the volume that holds the journal were removed while another one is not visible, that one would
// seem to be what is left of a set to which the journal was rolled back.
func TestUndoKeepsSnapshotOfJournalWhileGroupIsNotVisible(t *testing.T) {
	srv, p := serverWithSetInTwoGroups(t)
	srv.SetHidden("vg01", true)
	expectGroupFault(t, Undo(t.Context(), srv.lvm, p))
	srv.SetHidden("vg01", false)
	if _, journalVolume := p.journalRollback(srv.report(), "/"); journalVolume != nil {
		t.Error("the journal seems to be rolled back")
	}
}

// After a boot, what LVM has of a set tells whether the journal was rolled back to it. Without one of the groups that
// cannot be told.
func TestSettlingAfterBootWaitsForGroup(t *testing.T) {
	srv, p := serverWithSetInTwoGroups(t)
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run := &journey.Run{Journal: j}
	if err := run.Begin(Kind, "s", p.Groups(), "taking", p); err != nil {
		t.Fatal(err)
	}
	e := *run.Entry()
	e.BootID = "an earlier one"
	server := Server{
		Mounts: func() ([]filesystem.Mount, error) { return srv.mounts, nil },
		View:   func(*lvm.Report, []filesystem.Mount) *View { return srv.view() },
	}
	srv.mounts = []filesystem.Mount{{ID: 1, Root: "/", Point: "/", Type: "ext4", Source: "/dev/vg00/dat"}}
	srv.journalDir = "/"
	srv.SetHidden("vg01", true)
	_, _, err = server.findJournalRollback(t.Context(), run, srv.lvm, &e, p)
	expectGroupFault(t, err)
}

// A set of which a group is missing is neither whole nor a set that somebody has removed a part of.
func TestSetNamesGroupThatIsNotVisible(t *testing.T) {
	srv, _ := serverWithSetInTwoGroups(t)
	srv.SetHidden("vg01", true)
	op := srv.operation(Request{State: Absent})
	expectGroupFault(t, op.set.Check())
	_, err := op.makeAbsent(t.Context())
	expectGroupFault(t, err)
	if len(srv.report().ByTag(tagID+"1")) != 1 {
		t.Error("something was removed")
	}
	srv.SetHidden("vg01", false)
	if err := srv.operation(Request{}).set.Check(); err != nil {
		t.Errorf("when the disk is back: %v", err)
	}
	srv.Remove("vg01/log_s")
	expectFault(t, srv.operation(Request{}).set.Check(), fault.SetDiffers, "there is none of vg01/log")
	if err := srv.checkAbsent(); err != nil {
		t.Errorf("of a set that lost a snapshot: %v", err)
	}
}

// The tags of a set have the names that its groups had when it was taken. A group that was renamed since is not
// missing.
func TestRenamedGroupIsNotMissing(t *testing.T) {
	label := Label{Set: "s", ID: "1", Count: 2, Time: takenAt, Volumes: []string{"old/dat", "old/log"}}
	srv := newTestServer(t, lvmtest.Group{Name: "new", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "log"}, {Name: "dat_s", Origin: "dat", Tags: label.tags()},
		{Name: "log_s", Origin: "log", Tags: label.tags()},
	}})
	if err := srv.operation(Request{}).set.Check(); err != nil {
		t.Error(err)
	}
	srv.Remove("new/log_s")
	expectFault(t, srv.operation(Request{}).set.Check(), fault.SetDiffers, "of its snapshots only these are left")
	if err := srv.checkAbsent(); err != nil {
		t.Error(err)
	}
	if left := fullNames(srv.operation(Request{}).set.Snapshots); !slices.Equal(left, []string{"new/dat_s"}) {
		t.Errorf("%v", left)
	}
}
