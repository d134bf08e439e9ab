package snapset

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// operation returns an operation on the set s, which exists.
func (srv *testServer) operation(r Request) *operation {
	srv.t.Helper()
	j, err := journal.Open(srv.t.TempDir())
	if err != nil {
		srv.t.Fatal(err)
	}
	r.Set = "s"
	op := &operation{Request: r, run: &journey.Run{Journal: j}, lvm: srv.lvm, view: srv.view()}
	if op.set, err = Find(op.view.Report, "s"); err != nil {
		srv.t.Fatal(err)
	}
	if op.targets, err = op.view.Resolve(r.Volumes); err != nil {
		srv.t.Fatal(err)
	}
	return op
}

// serverWithSet returns a server with the set s of /dat and /pccehr.
func serverWithSet(t *testing.T) *testServer {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	srv.Make("vg00", memberSnapshot("pccehr_s", "pccehr", "s", "1", 2))
	return srv
}

// An LVM command that is killed while it changes a set leaves an origin suspended. The journal entry names the origins.
func TestKilledRemoveOrExtendLeavesNoOriginSuspended(t *testing.T) {
	for name, c := range map[string]struct {
		change func(op *operation) error
		left   int // snapshots of the set
	}{
		"remove": {func(op *operation) error {
			return removeSet(t.Context(), op.run, op.lvm, op.set, op.view.Mounts)
		}, 0},
		"extend": {func(op *operation) error { _, err := op.extend(t.Context()); return err }, 2},
	} {
		for _, processDies := range []bool{true, false} { // together with the LVM command
			srv := serverWithSet(t)
			op := srv.operation(Request{Size: "100m"})
			srv.Suspend("vg00/dat", true)
			if n := len(srv.Commands()) + 1; processDies {
				srv.DieAt(n)
			} else {
				srv.FailAt(n, errors.New("killed"))
			}
			if died := diesDuring(func() { _ = c.change(op) }); died != processDies {
				t.Fatalf("%s: died: %v", name, died)
			}
			srv.Revive()
			if !processDies && srv.Suspended("vg00/dat") {
				t.Errorf("%s: writes still wait, though the process is alive", name)
			}
			open, err := op.run.Journal.Unfinished()
			if err != nil || processDies && len(open) != 1 {
				t.Fatalf("%s: unfinished %v, %v", name, open, err)
			}
			for _, e := range open {
				p, err := PlanOf(e)
				if err == nil {
					err = Undo(t.Context(), srv.lvm, p)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if srv.Suspended("vg00/dat") {
				t.Errorf("%s: vg00/dat was left suspended", name)
			}
			if _, prepared := srv.Mapped("vg00/dat"); prepared {
				t.Errorf("%s: vg00/dat was left with a prepared table", name)
			}
			if left := len(srv.report().ByTag(tagID + "1")); left != c.left {
				t.Errorf("%s: %d snapshots are left", name, left)
			}
		}
	}
}

// An extension is journaled, and its entry does not look like that of a new set.
func TestExtendIsJournaled(t *testing.T) {
	srv := serverWithSet(t)
	op := srv.operation(Request{Size: "100m"})
	if _, err := op.extend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := op.run.Entry(); e.Step != "extended" || e.Outcome != journal.Done {
		t.Errorf("recorded as %s, %s", e.Step, e.Outcome)
	}
	if v, _ := srv.report().Volume("vg00", "dat_s"); v.COWSize != 100*mib {
		t.Errorf("vg00/dat_s has %d bytes", v.COWSize)
	}
}

// A share of the free space is of what was free when the set was taken. The same request later changes nothing, even if
// the group is full by then.
func TestSameShareOfFullGroupChangesNothing(t *testing.T) {
	srv := serverWithSet(t)
	free := srv.report().Groups[0].Free
	srv.Make("vg00", lvmtest.Volume{Name: "all", Size: free})
	op := srv.operation(Request{State: Present, Size: "100%FREE"})
	if err := op.targetSetOrigins(); err != nil {
		t.Fatal(err)
	}
	if result, err := op.makePresent(t.Context()); err != nil || result.Changed {
		t.Errorf("changed %v: %v", result.Changed, err)
	}
}

// checkAbsent asks for the removal of the set s in check mode.
func (srv *testServer) checkAbsent(volumes ...string) error {
	op := srv.operation(Request{State: Absent, Check: true, Volumes: volumesNamed(volumes...)})
	_, err := op.makeAbsent(srv.t.Context())
	return err
}

// A thin snapshot that took its origin's place, and one that was renamed to be kept, still have the set's tags.
func TestAbsentRefusesRenamedOrOrphanedSnapshots(t *testing.T) {
	makeSet := func(srv *testServer) {
		srv.Make("vg00", memberSnapshot("pccehr_s", "pccehr", "s", "1", 2))
		thin := memberSnapshot("t1_s", "t1", "s", "1", 2)
		thin.Kind = lvm.Thin
		srv.Make("vg00", thin)
	}
	for name, c := range map[string]struct {
		change func(srv *testServer)
		want   []string // in the error and its hint; nil: the set is removed
	}{
		"as taken":           {func(*testServer) {}, nil},
		"the origin renamed": {func(srv *testServer) { srv.Rename("vg00/t1", "old") }, nil},
		"put in the origin's place": {func(srv *testServer) {
			srv.Rename("vg00/t1", "t1_old")
			srv.Rename("vg00/t1_s", "t1")
		}, []string{"vg00/t1 was renamed", "lvchange --deltag rewind:id=1 vg00/t1", "lvremove vg00/t1"}},
		"the origin removed": {func(srv *testServer) {
			srv.SetOpen("vg00/t1", 0)
			srv.Remove("vg00/t1")
		}, []string{"vg00/t1_s has no origin any more", "lvchange --deltag rewind:id=1 vg00/t1_s"}},
		"a thick one renamed": {func(srv *testServer) { srv.Rename("vg00/pccehr_s", "pccehr_keep") },
			[]string{"vg00/pccehr_keep was renamed"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			makeSet(srv)
			c.change(srv)
			err := srv.checkAbsent()
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expectFault(t, err, fault.SetDiffers)
			for _, want := range c.want {
				if f := fault.Of(err); !strings.Contains(f.Error()+f.Hint, want) {
					t.Errorf("%q, hint %q, want %q", f.Error(), f.Hint, want)
				}
			}
			if len(srv.report().ByTag(tagID+"1")) != 2 {
				t.Error("something was removed")
			}
		})
	}
}

// If a set has lost members, nobody knows which volumes they were of, but the origins of its remaining snapshots are
// known. A removal must name all of these, or no volumes at all.
func TestAbsentOfIncompleteSetRequiresItsVolumes(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	expectFault(t, srv.checkAbsent("/pccehr"), fault.SetDiffers, "it also has one of vg00/dat")
	unmount := srv.operation(Request{State: Unmounted, Check: true, Volumes: volumesNamed("/pccehr")})
	_, err := unmount.makeUnmounted(t.Context())
	expectFault(t, err, fault.SetDiffers, "it also has one of vg00/dat")
	for _, volumes := range [][]string{nil, {"/dat"}, {"/dat", "/pccehr"}} {
		if err := srv.checkAbsent(volumes...); err != nil {
			t.Errorf("%v: %v", volumes, err)
		}
	}
	present := srv.operation(Request{State: Present, Volumes: volumesNamed("/pccehr")})
	if err := present.set.checkSameVolumes(present.targets, Present); err != nil {
		t.Errorf("a missing snapshot is reported as a difference: %v", err)
	}
}

// beforeRemoval does something right before the first lvremove that a run starts.
type beforeRemoval struct {
	*lvmtest.Fake
	act *func()
}

func (b beforeRemoval) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if act := *b.act; act != nil && c.Argv[1] == "lvremove" {
		*b.act = nil
		act()
	}
	return b.Fake.Run(ctx, c)
}

// Between the report that says what is to be removed and lvremove other programs go on.
func TestOnlySnapshotsOfTheReportAreRemoved(t *testing.T) {
	for name, remove := range map[string]func(*testServer) error{
		"absent": func(srv *testServer) error {
			op := srv.operation(Request{})
			return removeSet(t.Context(), op.run, op.lvm, op.set, op.view.Mounts)
		},
		"undo": func(srv *testServer) error {
			return Undo(t.Context(), srv.lvm, &Plan{Set: "s", ID: "1", Members: []*Member{{VG: "vg00", LV: "dat",
				DMName: "vg00-dat"}}})
		},
	} {
		srv := serverWithSet(t)
		thin := memberSnapshot("t1_s", "t1", "s", "1", 2)
		thin.Kind = lvm.Thin
		srv.Make("vg00", thin)
		act := func() {
			srv.Remove("vg00/dat_s")
			srv.Make("vg00", lvmtest.Volume{Name: "dat_s"})
			srv.Make("vg00", lvmtest.Volume{Name: "mine", Origin: "t1_s", Kind: lvm.Snapshot})
		}
		mapper, _ := srv.Fake.Mapper()
		srv.lvm = lvm.New(beforeRemoval{srv.Fake, &act}).On(func() (lvm.Mapper, error) { return mapper, nil }).In(t.TempDir())
		expectFault(t, remove(srv), fault.Busy, "vg00/t1_s was not removed")
		for _, kept := range []string{"dat_s", "mine"} {
			if _, exists := srv.report().Volume("vg00", kept); !exists {
				t.Errorf("%s: vg00/%s is somebody else's, and was removed", name, kept)
			}
		}
		if _, exists := srv.report().Volume("vg00", "pccehr_s"); exists {
			t.Errorf("%s: vg00/pccehr_s was not removed", name)
		}
	}
}

// LVM removes a thick snapshot together with the thin one that it was taken of, and with --yes it does not ask.
func TestAbsentRefusesMemberWithOwnSnapshots(t *testing.T) {
	srv := newServer(t)
	thin := memberSnapshot("t1_s", "t1", "s", "1", 2)
	thin.Kind = lvm.Thin
	srv.Make("vg00", thin)
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	srv.Make("vg00", lvmtest.Volume{Name: "mine", Origin: "t1_s", Size: 32 * mib, Kind: lvm.Snapshot})
	const want = "vg00/t1_s has snapshots of its own, which would be removed with it: vg00/mine"
	expectFault(t, srv.checkAbsent(), fault.Busy, want)
	expectFault(t, Undo(t.Context(), srv.lvm, &Plan{Set: "s", ID: "1"}), fault.Busy, want)
	if _, found := srv.report().Volume("vg00", "mine"); !found {
		t.Error("somebody's snapshot was removed")
	}
	if left := srv.report().ByTag(tagID + "1"); len(left) != 1 {
		t.Errorf("%v are left", fullNames(left))
	}
	srv.Remove("vg00/mine")
	if err := Undo(t.Context(), srv.lvm, &Plan{Set: "s", ID: "1"}); err != nil || len(srv.report().ByTag(tagID+"1")) > 0 {
		t.Errorf("with nothing in the way: %v", err)
	}
}

// vgimportclone makes a new volume group of copied disks, whose snapshots keep their tags.
func TestSnapshotsOfCopiedGroupAreNotRemoved(t *testing.T) {
	srv := serverWithSet(t)
	op := srv.operation(Request{})
	plan := op.set.removalPlan(nil)
	copied := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "pccehr"},
		memberSnapshot("dat_s", "dat", "s", "1", 2), memberSnapshot("pccehr_s", "pccehr", "s", "1", 2),
	}}, lvmtest.Group{Name: "vg00copy", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "pccehr"},
		memberSnapshot("dat_s", "dat", "s", "1", 2), memberSnapshot("pccehr_s", "pccehr", "s", "1", 2),
	}})
	const wantMsg = "taken of 2 volumes, and 4 snapshots have its tags: vg00/dat_s, vg00/pccehr_s, vg00copy/dat_s"
	expectFault(t, copied.checkAbsent(), fault.SetDiffers, wantMsg)
	expectFault(t, copied.operation(Request{}).set.Check(), fault.SetDiffers, wantMsg)
	if err := Undo(t.Context(), copied.lvm, plan); err != nil {
		t.Fatal(err)
	}
	left := fullNames(copied.report().ByTag(tagID + "1"))
	if want := []string{"vg00copy/dat_s", "vg00copy/pccehr_s"}; !slices.Equal(left, want) {
		t.Errorf("%v are left, want %v", left, want)
	}
}
