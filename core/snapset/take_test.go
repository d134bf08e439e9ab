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
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// plans are the ways to take a set.
func plans() map[string]func(w *world) *Plan {
	three := words("/dat", "/pccehr", "vg00/shut")
	return map[string]func(w *world) *Plan{
		"held": func(w *world) *Plan { return w.mustPlan(Want{Set: "s", Volumes: three}) },
		"each": func(w *world) *Plan { return w.mustPlan(Want{Set: "s", Each: true, Volumes: three}) },
		"thin": func(w *world) *Plan { return w.mustPlan(Want{Set: "s", Volumes: words("/t1", "/t2")}) },
		"thin and thick": func(w *world) *Plan {
			return w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/t1", "/pccehr", "/t2")})
		},
		"single": func(w *world) *Plan { return w.mustPlan(Want{Set: "s", Volumes: words("/dat")}) },
	}
}

var origins = []string{"vg00/dat", "vg00/pccehr", "vg00/shut", "vg00/t1", "vg00/t2"}

func TestTake(t *testing.T) {
	for name, plan := range plans() {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			p := plan(w)
			begun := len(w.Commands())
			pause, err := take(t.Context(), w.lvm, p, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			want := len(p.Members) + 1
			if slices.ContainsFunc(p.Members, (*Member).inactive) {
				want += 3 // the numbers in the pool, the activation, the mark
			}
			if ran := w.programs(begun); len(ran) > want {
				t.Errorf("%d commands for %d volumes: %q", len(ran), len(p.Members), ran)
			}
			for _, m := range p.Members {
				if v, ok := w.report().Volume(m.VG, m.Snapshot); !ok || !v.Active || v.SkipActivation {
					t.Errorf("%s: there %v, %+v", m.snapshot(), ok, v)
				}
			}
			set, err := Find(w.report(), "s")
			if err != nil || set == nil || !set.Complete() || set.Check() != nil {
				t.Fatalf("set %+v, %v", set, err)
			}
			var held []string
			for _, m := range p.Members {
				if w.Suspended(m.origin()) {
					t.Errorf("%s is still suspended", m.origin())
				}
				if _, told := pause[m.origin()]; !told {
					t.Errorf("the pause of %s is not told", m.origin())
				}
				if m.Method == Held {
					held = append(held, m.snapshot())
				}
			}
			if !w.OneInstant(held...) {
				t.Errorf("%v are not of one instant", held)
			}
		})
	}
}

// programs are the commands since the first ones, without calls to the kernel.
func (w *world) programs(begun int) []string {
	var out []string
	for _, argv := range w.Commands()[begun:] {
		if argv[0] != "device-mapper" {
			out = append(out, strings.Join(argv, " "))
		}
	}
	return out
}

// No program runs while a volume is held.
func TestNoProgramRunsWhileVolumesAreHeld(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/t1", "/pccehr", "vg00/shut")})
	begun := len(w.Commands())
	if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, argv := range w.Commands()[begun:] {
		verbs = append(verbs, argv[1])
	}
	// The last commands of all activate the thin one and add the tags.
	first, last := slices.Index(verbs, "suspend"), len(verbs)-4
	for _, argv := range w.Commands()[begun+first : begun+last+1] {
		if argv[0] != "device-mapper" {
			t.Errorf("%q runs while volumes are held: %q", argv, verbs)
		}
	}
	if verbs[last] != "resume" || verbs[last+1] != "lvchange" {
		t.Errorf("the end is %q", verbs[last:])
	}
}

// A set that is not finished is never taken for one.
func TestAnUnfinishedSetIsRefused(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	w.FailOn(errors.New("no such luck"), "--addtag", "rewind:count=2")
	w.FailOn(errors.New("in use"), "lvremove")
	if _, err := take(t.Context(), w.lvm, p, time.Minute); !errors.Is(err, errLeft) {
		t.Fatal(err)
	}
	set, err := Find(w.report(), "s")
	if err != nil || set == nil || set.Complete() {
		t.Fatalf("set %+v, %v", set, err)
	}
	expect(t, set.Check(), fault.SetDiffers, "is not finished", "vg00/dat_s, vg00/pccehr_s")
}

// Whichever command or call fails, nothing of the set is left and everything goes on.
func TestAFailureAtAnyCommandLeavesNothing(t *testing.T) {
	for name, plan := range plans() {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			p := plan(w)
			begun := len(w.Commands())
			if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
				t.Fatal(err)
			}
			steps := len(w.Commands()) - begun
			for n := 1; n <= steps; n++ {
				w := server(t)
				p := plan(w)
				w.FailAt(len(w.Commands())+n, errors.New("no such luck"))
				_, err := take(t.Context(), w.lvm, p, time.Minute)
				if err == nil {
					t.Errorf("step %d of %d failed unnoticed", n, steps)
					continue
				}
				if !errors.Is(err, errLeft) {
					w.untouched(origins...)
				}
				if err := Undo(t.Context(), w.lvm, p); err != nil {
					t.Error(err)
				}
				w.untouched(origins...)
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

// Killed before or after any command or call, the plan in the journal is enough to undo it all, also when that is
// killed too. Writes go on at once, before LVM is asked anything.
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
					w.Revive()
					if err := p.letGo(w.lvm); err != nil {
						t.Error(err)
					}
					for _, origin := range origins {
						if w.Suspended(origin) {
							t.Errorf("step %d: writes to %s still wait after the release", n, origin)
						}
					}
					w.DieAt(len(w.Commands()) + 2)
					dies(func() { _ = Undo(t.Context(), w.lvm, p) })
					w.Revive()
					var err error
					for dies(func() { err = Undo(t.Context(), w.lvm, p) }) {
						w.Revive()
					}
					if err != nil {
						t.Errorf("step %d: %v", n, err)
					}
					w.untouched(origins...)
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

// One disk does not answer: at the limit the other volumes go on, and the stuck one as soon as its suspend comes back.
func TestTheLimitLetsWritesGoOn(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	release := w.Stick()
	done := make(chan error, 1)
	go func() {
		_, err := take(t.Context(), w.lvm, p, 50*time.Millisecond)
		done <- err
	}()
	time.AfterFunc(200*time.Millisecond, release)
	expect(t, <-done, fault.FreezeTimeout, "writes to vg00-dat, vg00-pccehr waited for 50ms", "they go on again")
	w.untouched("vg00/dat", "vg00/pccehr")
}

func TestAskedToEndBeforeTheInstant(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := take(ctx, w.lvm, p, time.Minute)
	expect(t, err, fault.Interrupted, "writes go on")
	w.untouched("vg00/dat", "vg00/pccehr")
}

// What another command prepared for an origin is never made live: LVM's metadata may not say it.
func TestALeftoverTableIsNotMadeLive(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	w.Suspend("vg00/pccehr", true)
	if err := Undo(t.Context(), w.lvm, p); err != nil {
		t.Fatal(err)
	}
	w.untouched("vg00/dat", "vg00/pccehr")
}

// A set that fails and cannot be undone either keeps its record open, so that it is settled; one of which nothing is left
// closes it.
func TestTheRecordOfAFailedSetSaysWhetherSomethingIsLeft(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		w := server(t)
		p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
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

// LVM's own suspend of a single volume cannot be cut short; that it was longer than the limit is said.
func TestASuspendOfLVMBeyondTheLimitIsAWarning(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat")})
	quick := took(p, Pause{"vg00/dat": time.Second}, 15*time.Second)
	slow := took(p, Pause{"vg00/dat": 137 * time.Second}, 15*time.Second)
	if len(quick.Warnings) != 0 || len(slow.Warnings) != 1 || !strings.Contains(slow.Warnings[0], "waited 2m17s") {
		t.Errorf("warnings: %q, %q", quick.Warnings, slow.Warnings)
	}
}

// A file system writes to its log when it is thawed: the log's volume goes on first.
func TestALogIsReleasedBeforeItsFileSystem(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	p.Members[1].Log = true
	for _, m := range p.Members {
		w.Suspend(m.origin(), false)
	}
	begun := len(w.Commands())
	if err := p.letGo(w.lvm); err != nil {
		t.Fatal(err)
	}
	var resumed []string
	for _, argv := range w.Commands()[begun:] {
		resumed = append(resumed, argv[len(argv)-1])
	}
	if want := []string{"vg00-pccehr", "vg00-dat"}; !slices.Equal(resumed, want) {
		t.Errorf("resumed %q, want %q", resumed, want)
	}
}
