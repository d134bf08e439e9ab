package snapset

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// planKinds returns functions that plan sets of each kind.
func planKinds() map[string]func(srv *testServer) *Plan {
	three := volumesNamed("/dat", "/pccehr", "vg00/shut")
	return map[string]func(srv *testServer) *Plan{
		"held": func(srv *testServer) *Plan { return srv.mustPlan(SetSpec{Set: "s", Volumes: three}) },
		"each": func(srv *testServer) *Plan { return srv.mustPlan(SetSpec{Set: "s", Each: true, Volumes: three}) },
		"thin": func(srv *testServer) *Plan {
			return srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/t1", "/t2")})
		},
		"thin and thick": func(srv *testServer) *Plan {
			return srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/t1", "/pccehr", "/t2")})
		},
		"single": func(srv *testServer) *Plan { return srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat")}) },
	}
}

var origins = []string{"vg00/dat", "vg00/pccehr", "vg00/shut", "vg00/t1", "vg00/t2"}

func TestTake(t *testing.T) {
	for name, plan := range planKinds() {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			p := plan(srv)
			before := len(srv.Commands())
			pause, err := take(t.Context(), srv.lvm, p, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			want := len(p.Members) + 1
			if len(p.heldMembers()) > 0 {
				want++ // to look whether the snapshots are still those of the set
			}
			if slices.ContainsFunc(p.Members, (*Member).isCreatedInactive) {
				want += 2 // for the activation, and the skip flag
			}
			if ran := srv.commandsSince(before); len(ran) > want {
				t.Errorf("%d commands for %d volumes: %q", len(ran), len(p.Members), ran)
			}
			for _, m := range p.Members {
				if v, ok := srv.report().Volume(m.VG, m.Snapshot); !ok || !v.Active || v.SkipActivation {
					t.Errorf("%s: exists: %v, %+v", m.snapshot(), ok, v)
				}
			}
			set, err := Find(srv.report(), "s")
			if err != nil || set == nil || !set.Complete() || set.Check() != nil {
				t.Fatalf("set %+v, %v", set, err)
			}
			var held []string
			for _, m := range p.Members {
				if srv.Suspended(m.origin()) {
					t.Errorf("%s is still suspended", m.origin())
				}
				if _, reported := pause[m.origin()]; !reported {
					t.Errorf("the pause of %s is not reported", m.origin())
				}
				if m.Method == Held {
					held = append(held, m.snapshot())
				}
			}
			if !srv.OneInstant(held...) {
				t.Errorf("%v are not of one instant", held)
			}
		})
	}
}

// commandsSince returns the commands that were run after the first ones, without calls to the kernel.
func (srv *testServer) commandsSince(first int) []string {
	var out []string
	for _, argv := range srv.Commands()[first:] {
		if argv[0] != "device-mapper" {
			out = append(out, strings.Join(argv, " "))
		}
	}
	return out
}

func TestNoProgramRunsWhileVolumesAreHeld(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/t1", "/pccehr", "vg00/shut")})
	before := len(srv.Commands())
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, argv := range srv.Commands()[before:] {
		verbs = append(verbs, argv[1])
	}
	// The last three commands activate the thin snapshot and add the tags.
	first, last := slices.Index(verbs, "suspend"), len(verbs)-4
	for _, argv := range srv.Commands()[before+first : before+last+1] {
		if argv[0] != "device-mapper" {
			t.Errorf("%q runs while volumes are held: %q", argv, verbs)
		}
	}
	if verbs[last] != "resume" || verbs[last+1] != "lvchange" {
		t.Errorf("the end is %q", verbs[last:])
	}
}

func TestCheckRefusesUnfinishedSet(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	srv.FailOn(errors.New("no such luck"), "--addtag", "rewind:count=2")
	srv.FailOn(errors.New("in use"), "lvremove")
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); !errors.Is(err, errLeftover) {
		t.Fatal(err)
	}
	set, err := Find(srv.report(), "s")
	if err != nil || set == nil || set.Complete() {
		t.Fatalf("set %+v, %v", set, err)
	}
	expectFault(t, set.Check(), fault.SetDiffers, "is not finished", "vg00/dat_s, vg00/pccehr_s")
}

// After a failure of any command or call, nothing of the set is left and writes go on.
func TestFailureAtAnyCommandLeavesNothing(t *testing.T) {
	for name, plan := range planKinds() {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			p := plan(srv)
			before := len(srv.Commands())
			if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
				t.Fatal(err)
			}
			steps := len(srv.Commands()) - before
			for n := 1; n <= steps; n++ {
				srv := newServer(t)
				p := plan(srv)
				srv.FailAt(len(srv.Commands())+n, errors.New("no such luck"))
				_, err := take(t.Context(), srv.lvm, p, time.Minute)
				if err == nil {
					t.Errorf("step %d of %d failed unnoticed", n, steps)
					continue
				}
				if !errors.Is(err, errLeftover) {
					srv.assertUntouched(origins...)
				}
				if err := Undo(t.Context(), srv.lvm, p); err != nil {
					t.Error(err)
				}
				srv.assertUntouched(origins...)
			}
		})
	}
}

// diesDuring runs f and says whether the process died at a command in it, as by SIGKILL.
func diesDuring(f func()) (died bool) {
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

// If the process is killed before or after any command or call, the plan in the journal is enough to undo everything,
// even if the undoing is killed too. Writes go on at once, before LVM is asked anything.
func TestUndoAfterKillAtAnyCommand(t *testing.T) {
	for name, plan := range planKinds() {
		for when, arm := range map[string]func(srv *testServer, n int){
			"before": func(srv *testServer, n int) { srv.DieAt(n) },
			"after":  func(srv *testServer, n int) { srv.DieAfter(n) },
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				for n := 1; ; n++ {
					srv := newServer(t)
					p := plan(srv)
					arm(srv, len(srv.Commands())+n)
					if !diesDuring(func() { _, _ = take(t.Context(), srv.lvm, p, time.Minute) }) {
						if n <= len(p.Members) {
							t.Errorf("there are only %d commands", n-1)
						}
						return
					}
					srv.Revive()
					if err := p.resumeWrites(srv.lvm); err != nil {
						t.Error(err)
					}
					for _, origin := range origins {
						if srv.Suspended(origin) {
							t.Errorf("step %d: writes to %s still wait after the release", n, origin)
						}
					}
					srv.DieAt(len(srv.Commands()) + 2)
					diesDuring(func() { _ = Undo(t.Context(), srv.lvm, p) })
					srv.Revive()
					var err error
					for diesDuring(func() { err = Undo(t.Context(), srv.lvm, p) }) {
						srv.Revive()
					}
					if err != nil {
						t.Errorf("step %d: %v", n, err)
					}
					srv.assertUntouched(origins...)
				}
			})
		}
	}
}

// Undo goes by tags: it does not touch a snapshot with the tags of another set, whatever the snapshot's name is.
func TestUndoKeepsSnapshotsOfOtherSets(t *testing.T) {
	srv := newServer(t)
	srv.Make("vg00", lvmtest.Volume{Name: "dat_s", Origin: "dat", Tags: []string{"rewind:set=s", "rewind:id=another"}})
	p := &Plan{Set: "s", ID: "id-1", Members: []*Member{
		{VG: "vg00", LV: "dat", DMName: "vg00-dat", Snapshot: "dat_s"},
	}}
	if err := Undo(t.Context(), srv.lvm, p); err != nil {
		t.Fatal(err)
	}
	if _, found := srv.report().Volume("vg00", "dat_s"); !found {
		t.Error("another's snapshot was removed")
	}
}

// One disk does not answer. At the limit the other volumes go on, and the volume on that disk does so as soon as its
// suspend returns.
func TestWritesResumeAtFreezeTimeout(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	release := srv.Stick()
	done := make(chan error, 1)
	go func() {
		_, err := take(t.Context(), srv.lvm, p, 50*time.Millisecond)
		done <- err
	}()
	time.AfterFunc(200*time.Millisecond, release)
	expectFault(t, <-done, fault.FreezeTimeout, "writes to vg00-dat, vg00-pccehr waited for 50ms", "they go on again")
	srv.assertUntouched("vg00/dat", "vg00/pccehr")
}

// LVM suspends a volume until its dirty pages are written out. Most of them are written out before, while programs can
// still write.
func TestDirtyPagesAreWrittenOutBeforeLVMSuspends(t *testing.T) {
	for _, each := range []bool{false, true} {
		for _, names := range [][]string{{"/dat"}, {"/dat", "/pccehr"}} {
			srv := newServer(t)
			p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed(names...), Each: each})
			var written []string // before the first snapshot
			writeOut = func(_ context.Context, points []string, _ time.Duration) []string {
				if !slices.ContainsFunc(srv.Commands(), func(argv []string) bool { return slices.Contains(argv, "lvcreate") }) {
					written = append(written, points...)
				}
				return nil
			}
			t.Cleanup(func() { writeOut = filesystem.WriteOut })
			if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if !slices.Contains(written, name) {
					t.Errorf("%v, each %v: written out before the first snapshot: %v", names, each, written)
				}
			}
		}
	}
}

func TestTakeEndsWhenCancelled(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := take(ctx, srv.lvm, p, time.Minute)
	expectFault(t, err, fault.Interrupted, "writes go on")
	srv.assertUntouched("vg00/dat", "vg00/pccehr")
}

// A table that another command prepared for an origin is never made live: LVM's metadata may say something else.
func TestUndoDropsLeftoverTable(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	srv.Suspend("vg00/pccehr", true)
	if err := Undo(t.Context(), srv.lvm, p); err != nil {
		t.Fatal(err)
	}
	srv.assertUntouched("vg00/dat", "vg00/pccehr")
}

// An administrator renames an origin, and the LVM command that was at work on it is killed: the plan has the old name.
func TestUndoFindsRenamedOrigin(t *testing.T) {
	for _, id := range []string{"id-1", ""} { // of an extension there is none
		srv := newServer(t)
		p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
		p.ID = id
		srv.Rename("vg00/pccehr", "old")
		srv.Suspend("vg00/old", true)
		if err := Undo(t.Context(), srv.lvm, p); err != nil {
			t.Error(err)
		}
		srv.assertUntouched("vg00/dat", "vg00/old")
	}
}

// takeWithJournal takes a set with a journal entry of its own, and closes the entry if nothing is left of the set. It
// returns the entries that are open then, and why the set failed.
func (srv *testServer) takeWithJournal(p *Plan) ([]*journal.Entry, error) {
	srv.t.Helper()
	j, err := journal.Open(srv.t.TempDir())
	if err != nil {
		srv.t.Fatal(err)
	}
	run := &journey.Run{Journal: j}
	if err := run.Begin(Kind, "s", p.Groups(), "taking", p); err != nil {
		srv.t.Fatal(err)
	}
	_, err = take(srv.t.Context(), srv.lvm, p, time.Minute)
	err = closeFailed(run, err)
	open, _ := j.Unfinished()
	return open, err
}

// The journal entry of a set that fails and cannot be undone either stays open, so that the set is settled. If nothing
// of the set is left, the entry is closed.
func TestFailedSetStaysUnfinishedIfUndoFails(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		srv := newServer(t)
		p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
		srv.FailOn(errors.New("no such luck"), "lvcreate", "pccehr_s")
		if stuck {
			srv.FailOn(errors.New("in use"), "lvremove")
		}
		open, err := srv.takeWithJournal(p)
		if len(open) == 1 != stuck || errors.Is(err, errLeftover) != stuck {
			t.Errorf("something is left: %v; %v, unfinished: %v", stuck, err, open)
		}
		if !stuck {
			srv.assertUntouched("vg00/dat", "vg00/pccehr")
		}
	}
}

// A command that outlives its limit may still make what an undo has just not found. So the set stays unfinished, and
// is undone when that command has ended.
func TestCommandThatOutlivesItsLimitLeavesSetUnfinished(t *testing.T) {
	for _, words := range [][]string{{"lvcreate", "pccehr_s"}, {"lvchange", "--addtag"}} {
		srv := newServer(t)
		p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
		srv.Outlive(words...)
		if open, err := srv.takeWithJournal(p); len(open) != 1 || !errors.Is(err, lvm.ErrUnfinished) {
			t.Errorf("%s: unfinished: %v, %v", words[0], open, err)
		}
		srv.report() // now the command goes on
		if err := Undo(t.Context(), srv.lvm, p); err != nil {
			t.Errorf("%s: %v", words[0], err)
		}
		srv.assertUntouched("vg00/dat", "vg00/pccehr")
	}
}

// LVM's own suspend of a single volume cannot be cut short. If it takes longer than the limit, the result has a
// warning.
func TestLongSuspendByLVMIsWarnedOf(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat")})
	quick := takenResult(p, Pause{"vg00/dat": time.Second}, 15*time.Second)
	slow := takenResult(p, Pause{"vg00/dat": 137 * time.Second}, 15*time.Second)
	if len(quick.Warnings) != 0 || len(slow.Warnings) != 1 || !strings.Contains(slow.Warnings[0], "waited 2m17s") {
		t.Errorf("warnings: %q, %q", quick.Warnings, slow.Warnings)
	}
}

// A file system writes to its log when it is thawed, so the log's volume is resumed first.
func TestLogIsResumedBeforeItsFileSystem(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	p.Members[1].Log = true
	for _, m := range p.Members {
		srv.Suspend(m.origin(), false)
	}
	before := len(srv.Commands())
	if err := p.resumeWrites(srv.lvm); err != nil {
		t.Fatal(err)
	}
	var resumed []string
	for _, argv := range srv.Commands()[before:] {
		resumed = append(resumed, argv[len(argv)-1])
	}
	if want := []string{"vg00-pccehr", "vg00-dat"}; !slices.Equal(resumed, want) {
		t.Errorf("resumed %q, want %q", resumed, want)
	}
}
