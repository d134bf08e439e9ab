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

// request is one run with the set s, which is there.
func (w *world) request(r Request) *work {
	w.t.Helper()
	j, err := journal.Open(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	r.Set = "s"
	work := &work{Request: r, trip: &journey.Trip{Journal: j}, lvm: w.lvm, view: w.view()}
	if work.set, err = Find(work.view.Report, "s"); err != nil {
		w.t.Fatal(err)
	}
	if work.targets, err = work.view.Resolve(r.Volumes); err != nil {
		w.t.Fatal(err)
	}
	return work
}

// pair is a server with the set s of /dat and /pccehr.
func pair(t *testing.T) *world {
	w := server(t)
	w.Make("vg00", snapshot("dat_s", "dat", "s", "1", 2))
	w.Make("vg00", snapshot("pccehr_s", "pccehr", "s", "1", 2))
	return w
}

// An LVM command that is killed while it changes a set leaves an origin suspended. The journal knows which there are.
func TestWhatAKilledChangeOfASetHoldsGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *work) error
		left   int // snapshots of the set
	}{
		"remove": {func(w *work) error { return w.remove(t.Context()) }, 0},
		"extend": {func(w *work) error { _, err := w.extend(t.Context()); return err }, 2},
	} {
		for _, withUs := range []bool{true, false} {
			w := pair(t)
			work := w.request(Request{Size: "100m"})
			w.Suspend("vg00/dat", true)
			if n := len(w.Commands()) + 1; withUs {
				w.DieAt(n)
			} else {
				w.FailAt(n, errors.New("killed"))
			}
			if died := dies(func() { _ = c.change(work) }); died != withUs {
				t.Fatalf("%s: died: %v", name, died)
			}
			w.Revive()
			if !withUs && w.Suspended("vg00/dat") {
				t.Errorf("%s: writes wait for the end of this run", name)
			}
			open, err := work.trip.Journal.Unfinished()
			if err != nil || withUs && len(open) != 1 {
				t.Fatalf("%s: unfinished %v, %v", name, open, err)
			}
			for _, e := range open {
				p, err := PlanOf(e)
				if err == nil {
					err = Undo(t.Context(), w.lvm, p)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if w.Suspended("vg00/dat") {
				t.Errorf("%s: vg00/dat was left suspended", name)
			}
			if _, prepared := w.Mapped("vg00/dat"); prepared {
				t.Errorf("%s: vg00/dat was left with a prepared table", name)
			}
			if left := len(w.report().ByTag(tagID + "1")); left != c.left {
				t.Errorf("%s: %d snapshots are left", name, left)
			}
		}
	}
}

// What is extended is journaled, and is no new set for whoever asks what became of a rollback.
func TestAnExtensionIsRecorded(t *testing.T) {
	w := pair(t)
	work := w.request(Request{Size: "100m"})
	if _, err := work.extend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := work.trip.Entry(); e.Step != "extended" || e.Outcome != journal.Done {
		t.Errorf("recorded as %s, %s", e.Step, e.Outcome)
	}
	if v, _ := w.report().Volume("vg00", "dat_s"); v.COWSize != 100*mib {
		t.Errorf("vg00/dat_s has %d bytes", v.COWSize)
	}
}

// absent asks for the removal of the set s, and only looks.
func (w *world) absent(volumes ...string) error {
	_, err := w.request(Request{State: Absent, Check: true, Volumes: words(volumes...)}).absent(w.t.Context())
	return err
}

// A thin snapshot that took its origin's place, and one that was renamed to be kept, have the set's tags still.
func TestWhatBecameAVolumeOfItsOwnIsNotRemoved(t *testing.T) {
	thin := func(w *world) {
		w.Make("vg00", snapshot("pccehr_s", "pccehr", "s", "1", 2))
		of := snapshot("t1_s", "t1", "s", "1", 2)
		of.Kind = lvm.Thin
		w.Make("vg00", of)
	}
	for name, c := range map[string]struct {
		change func(w *world)
		says   []string // nil: it is removed
	}{
		"as taken":           {func(*world) {}, nil},
		"the origin renamed": {func(w *world) { w.Rename("vg00/t1", "old") }, nil},
		"put in the origin's place": {func(w *world) { w.Rename("vg00/t1", "t1_old"); w.Rename("vg00/t1_s", "t1") },
			[]string{"vg00/t1 was renamed", "lvchange --deltag rewind:id=1 vg00/t1", "lvremove vg00/t1"}},
		"the origin removed": {func(w *world) {
			w.SetOpen("vg00/t1", 0)
			if err := w.lvm.Remove(t.Context(), "vg00/t1"); err != nil {
				t.Fatal(err)
			}
		}, []string{"vg00/t1_s has no origin any more", "lvchange --deltag rewind:id=1 vg00/t1_s"}},
		"a thick one renamed": {func(w *world) { w.Rename("vg00/pccehr_s", "pccehr_keep") },
			[]string{"vg00/pccehr_keep was renamed"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			thin(w)
			c.change(w)
			err := w.absent()
			if c.says == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect(t, err, fault.SetDiffers)
			for _, says := range c.says {
				if f := fault.Of(err); !strings.Contains(f.Error()+f.Hint, says) {
					t.Errorf("%q, hint %q, want %q", f.Error(), f.Hint, says)
				}
			}
			if len(w.report().ByTag(tagID+"1")) != 2 {
				t.Error("something was removed")
			}
		})
	}
}

// Of a set that lost members nobody knows which they were; what is left of it is known.
func TestWhatIsLeftOfASetGoesOnlyWhenItIsNamed(t *testing.T) {
	w := server(t)
	w.Make("vg00", snapshot("dat_s", "dat", "s", "1", 2))
	expect(t, w.absent("/pccehr"), fault.SetDiffers, "it also has one of vg00/dat")
	_, err := w.request(Request{State: Unmounted, Check: true, Volumes: words("/pccehr")}).unmounted(t.Context())
	expect(t, err, fault.SetDiffers, "it also has one of vg00/dat")
	for _, volumes := range [][]string{nil, {"/dat"}, {"/dat", "/pccehr"}} {
		if err := w.absent(volumes...); err != nil {
			t.Errorf("%v: %v", volumes, err)
		}
	}
	if err := w.request(Request{State: Present, Volumes: words("/pccehr")}).same(); err != nil {
		t.Errorf("what is missing is not reported as such: %v", err)
	}
}

// LVM removes a thick snapshot together with the thin one that it was taken of, and asks nobody with --yes.
func TestASnapshotOfAMemberDoesNotGoWithIt(t *testing.T) {
	w := server(t)
	thin := snapshot("t1_s", "t1", "s", "1", 2)
	thin.Kind = lvm.Thin
	w.Make("vg00", thin)
	w.Make("vg00", snapshot("dat_s", "dat", "s", "1", 2))
	w.Make("vg00", lvmtest.Volume{Name: "mine", Origin: "t1_s", Size: 32 * mib, Kind: lvm.Snapshot})
	const says = "vg00/t1_s has snapshots of its own, which would be removed with it: vg00/mine"
	expect(t, w.absent(), fault.Busy, says)
	expect(t, Undo(t.Context(), w.lvm, &Plan{Set: "s", ID: "1"}), fault.Busy, says)
	if _, there := w.report().Volume("vg00", "mine"); !there {
		t.Error("somebody's snapshot was removed")
	}
	if left := w.report().ByTag(tagID + "1"); len(left) != 1 {
		t.Errorf("%v are left", names(left))
	}
	if err := w.lvm.Remove(t.Context(), "vg00/mine"); err != nil {
		t.Fatal(err)
	}
	if err := Undo(t.Context(), w.lvm, &Plan{Set: "s", ID: "1"}); err != nil || len(w.report().ByTag(tagID+"1")) > 0 {
		t.Errorf("with nothing in the way: %v", err)
	}
}

// vgimportclone keeps the tags of what it makes a group of.
func TestACopyOfAGroupDoesNotGoWithASet(t *testing.T) {
	w := pair(t)
	work := w.request(Request{})
	removal := work.set.removal(nil)
	copied := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "pccehr"}, snapshot("dat_s", "dat", "s", "1", 2), snapshot("pccehr_s", "pccehr", "s", "1", 2),
	}}, lvmtest.Group{Name: "vg00copy", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "pccehr"}, snapshot("dat_s", "dat", "s", "1", 2), snapshot("pccehr_s", "pccehr", "s", "1", 2),
	}})
	const says = "taken of 2 volumes, and 4 snapshots have its tags: vg00/dat_s, vg00/pccehr_s, vg00copy/dat_s"
	expect(t, copied.absent(), fault.SetDiffers, says)
	expect(t, copied.request(Request{}).set.Check(), fault.SetDiffers, says)
	if err := Undo(t.Context(), copied.lvm, removal); err != nil {
		t.Fatal(err)
	}
	left := names(copied.report().ByTag(tagID + "1"))
	if want := []string{"vg00copy/dat_s", "vg00copy/pccehr_s"}; !slices.Equal(left, want) {
		t.Errorf("%v are left, want %v", left, want)
	}
}
