package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/service"
)

// newDeferrable returns a rollback to these snapshots, with a journal, that can be deferred.
func newDeferrable(t *testing.T, f *lvmtest.Fake, snapshots ...string) *rollback {
	t.Helper()
	rb := newAtMerge(t, f, snapshots...)
	rb.systemd, rb.commands = &service.Systemd{}, command.NewRecorder(f)
	setUpJournal(t, rb)
	return rb
}

// If the boot guard stayed after a refused merge, the next boot would merge what the user was told had failed.
func TestRefusedDeferredMergeIsUndone(t *testing.T) {
	for name, strike := range map[string]func(f *lvmtest.Fake){
		"every command fails": func(f *lvmtest.Fake) { f.FailOn(errors.New("no such luck"), "lvconvert") },
		"all have overflowed": func(f *lvmtest.Fake) { f.Fill("vg00/dat_s", 100); f.Fill("vg00/app_s", 100) },
		"one, the other fails": func(f *lvmtest.Fake) {
			f.Fill("vg00/app_s", 100)
			f.FailOn(errors.New("no such luck"), "lvconvert")
		},
	} {
		f := server()
		rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", 1)
		strike(f)
		result, err := rb.deferMerges(t.Context(), nil)
		if !errors.Is(err, fault.MergeFailed) || result.Changed || !strings.Contains(result.Msg, "did not roll back") {
			t.Errorf("%s: %v, %+v", name, err, result)
		}
		if e := rb.entry(); e.Outcome != journal.Undone || isGuarded(t, rb) {
			t.Errorf("%s: %s %q, guard: %v", name, e.Step, e.Outcome, isGuarded(t, rb))
		}
	}
}

// An lvconvert that outlives its limit may still record the merges, so nothing is undone while it runs.
func TestDeferredMergeThatOutlivesItsLimitIsNotUndone(t *testing.T) {
	f := server()
	rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	f.SetOpen("vg00/app", 1)
	f.Outlive("lvconvert")
	result, err := rb.deferMerges(t.Context(), nil)
	if !errors.Is(err, lvm.ErrUnfinished) || !result.Changed {
		t.Errorf("%v, %+v", err, result)
	}
	if e := rb.entry(); e.Step != StepDeferred || e.Outcome != journal.Unfinished || !isGuarded(t, rb) {
		t.Errorf("%s %q, guard: %v", e.Step, e.Outcome, isGuarded(t, rb))
	}
	readReport(t, rb) // now lvconvert goes on
	if begun, err := rb.survey.hasBegun(t.Context()); !begun || err != nil {
		t.Errorf("begun: %v, %v", begun, err)
	}
}

// LVM merges the members that it took, although it refused the others.
func TestPartlyRefusedDeferredMergeNamesBothParts(t *testing.T) {
	f := server()
	rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	f.SetOpen("vg00/app", 1)
	f.Fill("vg00/app_s", 100)
	result, err := rb.deferMerges(t.Context(), nil)
	const want = "did not take vg00/app_s, but vg00/dat_s is merged all the same"
	if !errors.Is(err, fault.MergeFailed) || !strings.Contains(err.Error(), want) || !result.Changed {
		t.Errorf("%v, %+v", err, result)
	}
	if e := rb.entry(); e.Outcome != journal.Unfinished || e.Step != StepDeferred || !isGuarded(t, rb) {
		t.Errorf("%s %q, guard: %v", e.Step, e.Outcome, isGuarded(t, rb))
	}
}

// If all snapshots of a deferred rollback overflow before the boot, nothing will be rolled back. The volumes do not
// hold data of different times then, so the guard must not keep them from being mounted.
func TestDeferredRollbackIsUndoneIfAllSnapshotsOverflow(t *testing.T) {
	for _, boot := range []bool{false, true} {
		f := server()
		rb := newDeferrable(t, f, "vg00/dat_s")
		f.SetOpen("vg00/dat", 1)
		if _, err := rb.deferMerges(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if begun, err := rb.survey.hasBegun(t.Context()); !begun || err != nil {
			t.Fatalf("before: %v %v", begun, err)
		}
		f.Fill("vg00/dat_s", 100)
		if boot {
			f.PowerCut()
		}
		_, lostErr, err := rb.survey.look(t.Context())
		if err != nil || !errors.Is(lostErr, fault.SnapshotInvalid) ||
			!strings.Contains(fault.Of(lostErr).Hint, "lvremove vg00/dat_s") {
			t.Errorf("boot %v: %v %v", boot, lostErr, err)
		}
		if err := rb.mergeAtBoot(t.Context()); err != nil {
			t.Errorf("boot %v: the guard keeps the volumes from their mounts: %v", boot, err)
		}
		if err := rb.settle(t.Context()); err != nil {
			t.Error(err)
		}
		if e := rb.entry(); e.Outcome != journal.Undone || isGuarded(t, rb) {
			t.Errorf("boot %v: %s %q, guard: %v", boot, e.Step, e.Outcome, isGuarded(t, rb))
		}
	}
}

// If one member merges, or will, and the other is lost, the volumes hold data of different times, and must not be
// mounted.
func TestDeferredRollbackStaysGuardedIfOneSnapshotOverflows(t *testing.T) {
	for _, boot := range []bool{false, true} {
		f := server()
		f.Fill("vg00/app_s", 50)
		rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", 1)
		if _, err := rb.deferMerges(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		f.Fill("vg00/dat_s", 100)
		if boot {
			f.PowerCut()
			if err := rb.mergeAtBoot(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
				t.Errorf("the guard lets volumes of different times be mounted: %v", err)
			}
		}
		if err := rb.settleDeferred(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
			t.Errorf("boot %v: %v", boot, err)
		}
		if e := rb.entry(); e.Outcome != journal.Unfinished || !isGuarded(t, rb) {
			t.Errorf("boot %v: %s %q, guard: %v", boot, e.Step, e.Outcome, isGuarded(t, rb))
		}
		if boot {
			checkMixWithoutSnapshot(t, f, rb)
		}
	}
}

// checkMixWithoutSnapshot removes the lost snapshot, as the hint says. The volumes still hold data of different times:
// the guard must not let them be mounted, and the run that ends the rollback must report it.
func checkMixWithoutSnapshot(t *testing.T, f *lvmtest.Fake, rb *rollback) {
	t.Helper()
	f.Remove("vg00/dat_s")
	f.PowerCut()
	err := rb.mergeAtBoot(t.Context())
	if !errors.Is(err, fault.SnapshotInvalid) || !strings.Contains(err.Error(), "vg00/dat is not") {
		t.Errorf("the guard lets volumes of different times be mounted once the lost snapshot is removed: %v", err)
	}
	if err := rb.settleDeferred(t.Context()); err != nil {
		t.Error(err)
	}
	if err := rb.state.failure(); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("the same task says: %v", err)
	}
}

// If a rollback was deferred or about to merge, and LVM has taken no merge, the boot must not make it: nobody was told
// that it would be made, and the volumes may hold newer data by then.
func TestBootUndoesRollbackWithoutBegunMerge(t *testing.T) {
	for _, step := range []string{StepDeferred, stepMerging} {
		f := server()
		rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
		beginAt(t, rb, step)
		f.PowerCut()
		if err := rb.mergeAtBoot(t.Context()); err != nil {
			t.Errorf("%s: the guard keeps the volumes from their mounts: %v", step, err)
		}
		if err := rb.settle(t.Context()); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		states, err := rb.survey.states(t.Context())
		if err != nil || len(membersIn(states, rb.state.Members, stateWaiting)) != 2 {
			t.Errorf("%s: %v %v", step, states, err)
		}
		if e := rb.entry(); e.Outcome != journal.Undone || isGuarded(t, rb) {
			t.Errorf("%s: now %s %q, guard: %v", step, e.Step, e.Outcome, isGuarded(t, rb))
		}
	}
}

// As soon as one member merges, the rollback is not undone if another member is lost.
func TestBegunRollbackIsNotUndoneIfSnapshotOverflows(t *testing.T) {
	f := server()
	f.Fill("vg00/app_s", 50)
	rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
	beginAt(t, rb, stepMerging)
	if err := rb.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/dat_s", 100)
	if err := rb.mergeAtBoot(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
		t.Error(err)
	}
	if err := rb.settle(t.Context()); !errors.Is(err, fault.SnapshotInvalid) || rb.entry().Outcome != journal.Unfinished {
		t.Errorf("%v, %q", err, rb.entry().Outcome)
	}
}

// rootServer returns a fake server whose volumes are all in use, and a rollback of them: the root volume, which holds
// the journal and comes first in its group, and two others.
func rootServer(t *testing.T) (f *lvmtest.Fake, rb *rollback, root *Member) {
	t.Helper()
	f = lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root", Open: 1}, {Name: "root_s", Origin: "root", Size: 32 * mib},
		{Name: "app", Open: 1}, {Name: "app_s", Origin: "app", Size: 32 * mib},
		{Name: "dat", Open: 1}, {Name: "dat_s", Origin: "dat", Size: 32 * mib},
	}})
	for _, name := range []string{"root", "app", "dat"} {
		f.Fill("vg00/"+name+"_s", 50)
	}
	rb = newDeferrable(t, f, "vg00/root_s", "vg00/app_s", "vg00/dat_s")
	return f, rb, rb.state.Members[0]
}

// rebootCounter counts the requests for a reboot. It panics for any other command.
type rebootCounter struct{ n *int }

func (b rebootCounter) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if !slices.Equal(c.Argv, []string{"systemctl", "--no-block", "reboot"}) {
		panic(c.Argv)
	}
	*b.n++
	return command.Output{}, nil
}

// If the volume that holds the journal were merged alone at a boot, the journal would be rolled back with it, and the
// others would be used as they are.
func TestJournalMemberIsDeferredLast(t *testing.T) {
	f, rb, root := rootServer(t)
	if _, err := rb.deferMerges(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	var converts []string
	for _, argv := range f.Commands() {
		if argv[1] == "lvconvert" {
			_, names, _ := strings.Cut(strings.Join(argv, " "), " -- ")
			converts = append(converts, names)
		}
	}
	if !slices.Equal(converts, []string{"vg00/app_s vg00/dat_s", "vg00/root_s"}) {
		t.Errorf("%q", converts)
	}

	f, rb, root = rootServer(t)
	f.Fill("vg00/dat_s", 100)
	if _, err := rb.deferMerges(t.Context(), root); !errors.Is(err, fault.MergeFailed) {
		t.Errorf("dat is lost: %v", err)
	}
	if states, _, err := rb.survey.look(t.Context()); err != nil || states[root] != stateWaiting {
		t.Errorf("dat is lost: root is %s, %v", states[root], err)
	}
}

// Whenever the run is killed or the power fails, no boot merges the root volume without the others, and after further
// boots either all members are rolled back or none.
func TestInterruptedDeferredRollbackOfRootIsAllOrNothing(t *testing.T) {
	for _, power := range []bool{true, false} {
		for n := 1; ; n++ {
			f, rb, root := rootServer(t)
			f.DieAfter(len(f.Commands()) + n)
			if !isKilled(func() { _, _ = rb.deferMerges(t.Context(), root) }) {
				break
			}
			if !power { // settled in the same boot
				resumed, err := rb.server.reopen(rb.run, rb.entry())
				if err != nil {
					t.Fatal(err)
				}
				resumed.lvm, resumed.systemd, resumed.commands = rb.lvm, rb.systemd, rb.commands
				resumed.guard.forget = nil
				if err := resumed.settle(t.Context()); err != nil {
					t.Errorf("command %d: %v", n, err)
				}
			}
			reboots := 0
			rb.commands = command.NewRecorder(rebootCounter{&reboots})
			for range 3 {
				f.PowerCut()
				f.SetOpen("vg00/root", 1)
				asked := reboots
				if rb.entry().Outcome != journal.Unfinished {
					break
				}
				err := rb.mergeAtBoot(t.Context())
				states, _ := rb.survey.states(t.Context())
				if states[root] == stateMerging && states[rb.state.Members[1]] == stateWaiting {
					t.Errorf("command %d: root merges alone: %v", n, states)
				}
				if err == nil {
					break
				}
				if reboots == asked {
					t.Fatalf("command %d: the boot ends in %v", n, err)
				}
			}
			states, err := rb.survey.states(t.Context())
			done := len(membersIn(states, rb.state.Members, stateMerging)) +
				len(membersIn(states, rb.state.Members, stateMerged))
			if err != nil || done != 0 && done != 3 || reboots > 1 {
				t.Errorf("power %v, command %d: %v %v, %d reboots", power, n, states, err, reboots)
			}
		}
	}
}
