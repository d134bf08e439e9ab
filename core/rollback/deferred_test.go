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
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/service"
)

// put is a rollback to these snapshots that is to be put off.
func put(t *testing.T, f *lvmtest.Fake, snapshots ...string) *walk {
	t.Helper()
	w := walkOf(t, f, snapshots...)
	w.systemd, w.commands = &service.Systemd{}, command.NewRecorder(f)
	journaled(t, w)
	return w
}

// A guard that stays behind a refused merge would make the next boot merge what the user was told had failed.
func TestADeferredMergeThatLVMRefusesIsUndone(t *testing.T) {
	for name, strike := range map[string]func(f *lvmtest.Fake){
		"every command fails":  func(f *lvmtest.Fake) { f.FailOn(errors.New("no such luck"), "lvconvert") },
		"all have overflowed":  func(f *lvmtest.Fake) { f.Fill("vg00/dat_s", 100); f.Fill("vg00/app_s", 100) },
		"one, the other fails": func(f *lvmtest.Fake) { f.Fill("vg00/app_s", 100); f.FailOn(errors.New("no such luck"), "lvconvert") },
	} {
		f := server()
		w := put(t, f, "vg00/dat_s", "vg00/app_s")
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", 1)
		strike(f)
		result, err := w.deferred(t.Context(), nil)
		if !errors.Is(err, fault.MergeFailed) || result.Changed || !strings.Contains(result.Msg, "did not roll back") {
			t.Errorf("%s: %v, %+v", name, err, result)
		}
		if e := w.entry(); e.Outcome != journal.Undone || isGuarded(t) {
			t.Errorf("%s: %s %q, guard: %v", name, e.Step, e.Outcome, isGuarded(t))
		}
	}
}

// What LVM has taken it merges, whatever it said of the others.
func TestADeferredMergeThatLVMTakesInPartIsSaid(t *testing.T) {
	f := server()
	w := put(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	f.SetOpen("vg00/app", 1)
	f.Fill("vg00/app_s", 100)
	result, err := w.deferred(t.Context(), nil)
	if !errors.Is(err, fault.MergeFailed) || !strings.Contains(err.Error(), "did not take vg00/app_s, but vg00/dat_s is merged all the same") || !result.Changed {
		t.Errorf("%v, %+v", err, result)
	}
	if e := w.entry(); e.Outcome != journal.Unfinished || e.Step != StepDeferred || !isGuarded(t) {
		t.Errorf("%s %q, guard: %v", e.Step, e.Outcome, isGuarded(t))
	}
}

// A deferred rollback whose snapshots all overflow before the boot will never come: nothing is mixed, so nothing is kept
// from its mounts.
func TestADeferredRollbackThatIsLostIsGivenUp(t *testing.T) {
	for _, boot := range []bool{false, true} {
		f := server()
		w := put(t, f, "vg00/dat_s")
		f.SetOpen("vg00/dat", 1)
		if _, err := w.deferred(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if begun, err := w.hasBegun(t.Context()); !begun || err != nil {
			t.Fatalf("before: %v %v", begun, err)
		}
		f.Fill("vg00/dat_s", 100)
		if boot {
			f.PowerCut()
		}
		_, gone, err := w.survey(t.Context())
		if err != nil || !errors.Is(gone, fault.SnapshotInvalid) || !strings.Contains(fault.Of(gone).Hint, "lvremove vg00/dat_s") {
			t.Errorf("boot %v: %v %v", boot, gone, err)
		}
		if err := w.atBoot(t.Context()); err != nil {
			t.Errorf("boot %v: the guard keeps the volumes from their mounts: %v", boot, err)
		}
		if err := w.settle(t.Context()); err != nil {
			t.Error(err)
		}
		if e := w.entry(); e.Outcome != journal.Undone || isGuarded(t) {
			t.Errorf("boot %v: %s %q, guard: %v", boot, e.Step, e.Outcome, isGuarded(t))
		}
	}
}

// As long as one member merges, or will, the loss of another leaves a mix, which nobody is to mount.
func TestADeferredRollbackThatIsHalfLostIsNotGivenUp(t *testing.T) {
	for _, boot := range []bool{false, true} {
		f := server()
		f.Fill("vg00/app_s", 50)
		w := put(t, f, "vg00/dat_s", "vg00/app_s")
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", 1)
		if _, err := w.deferred(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		f.Fill("vg00/dat_s", 100)
		if boot {
			f.PowerCut()
			if err := w.atBoot(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
				t.Errorf("the guard lets a mix be mounted: %v", err)
			}
		}
		if err := w.settleDeferred(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
			t.Errorf("boot %v: %v", boot, err)
		}
		if e := w.entry(); e.Outcome != journal.Unfinished || !isGuarded(t) {
			t.Errorf("boot %v: %s %q, guard: %v", boot, e.Step, e.Outcome, isGuarded(t))
		}
		if boot {
			isAMixAfterItsSnapshotIsRemoved(t, f, w)
		}
	}
}

// isAMixAfterItsSnapshotIsRemoved goes on as the hint says. What the volumes hold is still of two times: no boot puts it
// into use, and the run that ends the rollback says so.
func isAMixAfterItsSnapshotIsRemoved(t *testing.T, f *lvmtest.Fake, w *walk) {
	t.Helper()
	if err := w.lvm.Remove(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	f.PowerCut()
	if err := w.atBoot(t.Context()); !errors.Is(err, fault.SnapshotInvalid) || !strings.Contains(err.Error(), "vg00/dat is not") {
		t.Errorf("the guard lets a mix be mounted once the lost snapshot is removed: %v", err)
	}
	if err := w.settleDeferred(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.failure(); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("the same task says: %v", err)
	}
}

// A rollback that was deferred, or about to merge, and of which LVM has taken nothing is not made at the boot: nobody
// was told that it would be, and what the volumes hold by then may be newer than the way back.
func TestABootMergesNothingOfWhichNoMergeHasBegun(t *testing.T) {
	for _, step := range []string{StepDeferred, stepMerging} {
		f := server()
		w := put(t, f, "vg00/dat_s", "vg00/app_s")
		begun(t, w, step)
		f.PowerCut()
		if err := w.atBoot(t.Context()); err != nil {
			t.Errorf("%s: the guard keeps the volumes from their mounts: %v", step, err)
		}
		if err := w.settle(t.Context()); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		states, err := w.states(t.Context())
		if err != nil || len(pick(states, w.state.Members, waiting)) != 2 {
			t.Errorf("%s: %v %v", step, states, err)
		}
		if e := w.entry(); e.Outcome != journal.Undone || isGuarded(t) {
			t.Errorf("%s: now %s %q, guard: %v", step, e.Step, e.Outcome, isGuarded(t))
		}
	}
}

// Once one member merges, the loss of another is no reason to give up.
func TestARollbackThatHasBegunIsNotGivenUp(t *testing.T) {
	f := server()
	f.Fill("vg00/app_s", 50)
	w := put(t, f, "vg00/dat_s", "vg00/app_s")
	begun(t, w, stepMerging)
	if err := w.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/dat_s", 100)
	if err := w.atBoot(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
		t.Error(err)
	}
	if err := w.settle(t.Context()); !errors.Is(err, fault.SnapshotInvalid) || w.entry().Outcome != journal.Unfinished {
		t.Errorf("%v, %q", err, w.entry().Outcome)
	}
}

// rootServer has a root volume, which holds the journal and comes first in its group, and two others. All are in use.
func rootServer(t *testing.T) (f *lvmtest.Fake, w *walk, root *Member) {
	t.Helper()
	f = lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root", Open: 1}, {Name: "root_s", Origin: "root", Size: 32 * mib},
		{Name: "app", Open: 1}, {Name: "app_s", Origin: "app", Size: 32 * mib},
		{Name: "dat", Open: 1}, {Name: "dat_s", Origin: "dat", Size: 32 * mib},
	}})
	for _, name := range []string{"root", "app", "dat"} {
		f.Fill("vg00/"+name+"_s", 50)
	}
	w = put(t, f, "vg00/root_s", "vg00/app_s", "vg00/dat_s")
	return f, w, w.state.Members[0]
}

// boots counts the reboots that are asked for, and knows no other program.
type boots struct{ n *int }

func (b boots) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if !slices.Equal(c.Argv, []string{"systemctl", "--no-block", "reboot"}) {
		panic(c.Argv)
	}
	*b.n++
	return command.Output{}, nil
}

// Merged alone at a boot, the volume of the journal would take it along, and the others would be used as they were.
func TestTheJournalsVolumeIsDeferredWhenAllOthersAre(t *testing.T) {
	f, w, root := rootServer(t)
	if _, err := w.deferred(t.Context(), root); err != nil {
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

	f, w, root = rootServer(t)
	f.Fill("vg00/dat_s", 100)
	if _, err := w.deferred(t.Context(), root); !errors.Is(err, fault.MergeFailed) {
		t.Errorf("dat is lost: %v", err)
	}
	if states, _, err := w.survey(t.Context()); err != nil || states[root] != waiting {
		t.Errorf("dat is lost: root is %s, %v", states[root], err)
	}
}

// Whenever the journey dies or the power fails, no boot has the root volume merge without the others, and the boots
// that follow end with all of them.
func TestADeferredRollbackOfTheRootVolumeIsAllOrNothing(t *testing.T) {
	for _, power := range []bool{true, false} {
		for n := 1; ; n++ {
			f, w, root := rootServer(t)
			f.DieAfter(len(f.Commands()) + n)
			if !dies(func() { _, _ = w.deferred(t.Context(), root) }) {
				break
			}
			if !power { // settled in the same boot
				again, err := reopen(w.trip, w.entry())
				if err != nil {
					t.Fatal(err)
				}
				again.lvm, again.systemd, again.commands = w.lvm, w.systemd, w.commands
				again.protected, again.writeProtect = w.protected, w.writeProtect
				if err := again.settle(t.Context()); err != nil {
					t.Errorf("command %d: %v", n, err)
				}
			}
			reboots := 0
			w.commands = command.NewRecorder(boots{&reboots})
			for range 3 {
				f.PowerCut()
				f.SetOpen("vg00/root", 1)
				asked := reboots
				if w.entry().Outcome != journal.Unfinished {
					break
				}
				err := w.atBoot(t.Context())
				states, _ := w.states(t.Context())
				if states[root] == merging && states[w.state.Members[1]] == waiting {
					t.Errorf("command %d: root merges alone: %v", n, states)
				}
				if err == nil {
					break
				}
				if reboots == asked {
					t.Fatalf("command %d: the boot ends in %v", n, err)
				}
			}
			states, err := w.states(t.Context())
			done := len(pick(states, w.state.Members, merging)) + len(pick(states, w.state.Members, merged))
			if err != nil || done != 0 && done != 3 || reboots > 1 {
				t.Errorf("power %v, command %d: %v %v, %d reboots", power, n, states, err, reboots)
			}
		}
	}
}
