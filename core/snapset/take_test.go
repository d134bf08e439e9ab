package snapset

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// plans are the ways to take a set that need no frozen file system, which only a real kernel has.
func plans() map[string]func(w *world) *Plan {
	three := words("/dat", "/pccehr", "vg00/shut")
	return map[string]func(w *world) *Plan{
		"suspended": func(w *world) *Plan { return w.mustPlan(oldKernel, Want{Set: "s", Volumes: three}) },
		"each":      func(w *world) *Plan { return w.mustPlan(newKernel, Want{Set: "s", Each: true, Volumes: three}) },
		"one thin among thick": func(w *world) *Plan {
			return w.mustPlan(oldKernel, Want{Set: "s", Volumes: words("/dat", "/t1", "/pccehr")})
		},
	}
}

func TestTake(t *testing.T) {
	for name, plan := range plans() {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			p := plan(w)
			before := len(w.Commands())
			pause, err := take(t.Context(), w.lvm, p, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if ran := len(w.Commands()) - before; ran > len(p.Members)+1 {
				t.Errorf("%d commands for %d volumes", ran, len(p.Members))
			}
			set, err := Find(w.report(), "s")
			if err != nil || set == nil || !set.Complete() || set.Check() != nil {
				t.Fatalf("set %+v, %v", set, err)
			}
			for _, m := range p.Members {
				if w.Suspended(m.origin()) {
					t.Errorf("%s is still suspended", m.origin())
				}
				if _, told := pause[m.origin()]; !told {
					t.Errorf("the pause of %s is not told", m.origin())
				}
			}
		})
	}
}

// Whichever command fails, nothing of the set is left and everything goes on.
func TestAFailureAtAnyCommandLeavesNothing(t *testing.T) {
	for name, plan := range plans() {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				w := server(t)
				p := plan(w)
				begun := len(w.Commands())
				w.FailAt(begun+n, errors.New("no such luck"))
				_, err := take(t.Context(), w.lvm, p, time.Minute)
				if err == nil {
					if n <= len(p.Members) {
						t.Errorf("command %d failed unnoticed", n)
					}
					return
				}
				if n == 1 || n > len(p.Members)+1 {
					expect(t, err, fault.CommandFailed, "no such luck")
				}
				w.untouched("vg00/dat", "vg00/pccehr", "vg00/shut", "vg00/t1")
			}
		})
	}
}

// dies runs f and tells whether it died at a command, as of SIGKILL.
func dies(f func()) (died bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, died = p.(lvmtest.Died); !died {
				panic(p)
			}
		}
	}()
	f()
	return false
}

// Killed before or after any command, the plan in the journal is enough to undo it all, also when that is killed too.
func TestADeathAtAnyCommandIsUndone(t *testing.T) {
	for name, plan := range plans() {
		for when, arm := range map[string]func(w *world, n int){
			"before": func(w *world, n int) { w.DieAt(n) },
			"after":  func(w *world, n int) { w.DieAfter(n) },
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				for n := 1; ; n++ {
					w := server(t)
					p := plan(w)
					arm(w, len(w.Commands())+n)
					if !dies(func() { _, _ = take(t.Context(), w.lvm, p, time.Minute) }) {
						if n <= len(p.Members) {
							t.Errorf("there are only %d commands", n-1)
						}
						return
					}
					w.DieAt(len(w.Commands()) + 2)
					dies(func() { _ = Undo(t.Context(), w.lvm, p) })
					if err := Undo(t.Context(), w.lvm, p); err != nil {
						t.Errorf("command %d: %v", n, err)
					}
					w.untouched("vg00/dat", "vg00/pccehr", "vg00/shut", "vg00/t1")
				}
			})
		}
	}
}

// Undo believes LVM: what has other tags is not touched, whatever it is called.
func TestUndoTouchesNothingElse(t *testing.T) {
	w := server(t)
	w.Make("vg00", lvmtest.Volume{Name: "dat_s", Origin: "dat", Tags: []string{"rewind:set=s", "rewind:id=another"}})
	if err := Undo(t.Context(), w.lvm, &Plan{Set: "s", ID: "id-1", Members: []*Member{{VG: "vg00", LV: "dat", DMName: "vg00-dat", Snapshot: "dat_s"}}}); err != nil {
		t.Fatal(err)
	}
	if _, there := w.report().Volume("vg00", "dat_s"); !there {
		t.Error("another's snapshot was removed")
	}
}

func TestTheLimitLetsWritesGoOn(t *testing.T) {
	w := server(t)
	p := w.mustPlan(oldKernel, Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	still, err := standStill(t.Context(), w.lvm, p.Members, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !w.Suspended("vg00/dat") || !w.Suspended("vg00/pccehr") {
		t.Fatal("not suspended")
	}
	still.expire()
	w.untouched("vg00/dat", "vg00/pccehr")
	expect(t, still.lost(t.Context(), time.Hour), fault.FreezeTimeout, "writes go on")
	if err := still.release(); err != nil {
		t.Error(err)
	}
}

func TestAskedToEndWhileWritesWait(t *testing.T) {
	w := server(t)
	p := w.mustPlan(oldKernel, Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	ctx, cancel := context.WithCancel(t.Context())
	still, err := standStill(ctx, w.lvm, p.Members, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	expect(t, still.lost(ctx, time.Hour), fault.Interrupted)
	if err := still.release(); err != nil {
		t.Error(err)
	}
	w.untouched("vg00/dat", "vg00/pccehr")
}

// A set that fails and cannot be undone either keeps its record open, so that it is settled; one of which nothing is left
// closes it.
func TestTheRecordOfAFailedSetSaysWhetherSomethingIsLeft(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		w := server(t)
		p := w.mustPlan(oldKernel, Want{Set: "s", Volumes: words("/dat", "/pccehr")})
		w.FailOn(errors.New("no such luck"), "lvcreate", "pccehr_s")
		if stuck {
			w.FailOn(errors.New("in use"), "lvremove")
		}
		j, err := journal.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		work := &work{trip: &journey.Trip{Journal: j}, lvm: w.lvm}
		if err := work.trip.Begin(Kind, "s", p.Groups(), "taking", p); err != nil {
			t.Fatal(err)
		}
		_, err = take(t.Context(), w.lvm, p, time.Minute)
		err = work.failed(err)
		open, _ := j.Unfinished()
		if len(open) == 1 != stuck || errors.Is(err, errLeft) != stuck {
			t.Errorf("something is left: %v; %v, unfinished: %v", stuck, err, open)
		}
		if !stuck {
			w.untouched("vg00/dat", "vg00/pccehr")
		}
	}
}

// A root file system that is rolled back brings back the journal as it was when the set was taken. The set's other
// snapshots are not what an interrupted journey left.
func TestARecordThatCameBackWithItsVolumeIsNotUndone(t *testing.T) {
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "root", Snapshot: "root_s", Points: []string{"/"}, Method: ByLVM},
		{VG: "vg00", LV: "dat", Snapshot: "dat_s", Points: []string{"/dat"}},
	}}
	snapshot := func(name, origin string) lvmtest.Volume {
		return lvmtest.Volume{Name: name, Origin: origin, Tags: []string{"rewind:set=s", "rewind:id=id-1"}}
	}
	for name, c := range map[string]struct {
		there []lvmtest.Volume
		back  bool
	}{
		"interrupted before the first": {nil, false},
		"interrupted after the first":  {[]lvmtest.Volume{snapshot("root_s", "root")}, false},
		"interrupted after the second": {[]lvmtest.Volume{snapshot("root_s", "root"), snapshot("dat_s", "dat")}, false},
		"the first was merged":         {[]lvmtest.Volume{snapshot("dat_s", "dat")}, true},
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
	expect(t, failed.Check(), fault.SetDiffers, "only 1 snapshots are left", "vg00/root_s: ")
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
