package rollback

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// withMetadata is a rollback to all of the server's snapshots that has kept LVM's metadata.
func withMetadata(t *testing.T, f *lvmtest.Fake) *walk {
	t.Helper()
	w := walkOf(t, f, all...)
	begun(t, w, stepMerging)
	w.kept = t.TempDir()
	w.keepMetadata(t.Context())
	if len(w.warnings) > 0 {
		t.Fatal(w.warnings)
	}
	return w
}

// Something opens every volume between the last look and LVM's own, which puts all merges off, and keeps them open.
func TestARollbackTurnsBackFromMergesThatNeverBegan(t *testing.T) {
	f := server()
	w := withMetadata(t, f)
	w.ready = true
	for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
		f.SetOpen(origin, 1)
	}
	err := w.merge(t.Context())
	if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "nothing was rolled back") {
		t.Fatal(err)
	}
	if begun, err := w.hasBegun(t.Context()); begun || err != nil {
		t.Error("a merge has begun:", begun, err)
	}
	if v, ok := report(t, w).ByPath("vg00/thin_s"); !ok || !v.Active {
		t.Error("the thin snapshot has lost its device")
	}
	for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
		f.SetOpen(origin, 0)
	}
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	under(t, w)
	w.dropMetadata()
	if _, err := os.Stat(w.kept); !errors.Is(err, os.ErrNotExist) {
		t.Error("the kept metadata is left:", err)
	}
}

// Where another volume merges, or somebody has changed the group since, the metadata is left alone.
func TestAMergeThatBeganIsNeverTakenBack(t *testing.T) {
	for name, act := range map[string]func(f *lvmtest.Fake, w *walk) error{
		"another volume merges": func(f *lvmtest.Fake, w *walk) error { f.SetOpen("vg00/app", 0); return nil },
		"somebody extended one": func(f *lvmtest.Fake, w *walk) error {
			return w.lvm.Extend(context.Background(), "vg00/dat", 128*mib)
		},
	} {
		f := server()
		w := withMetadata(t, f)
		w.ready = true
		for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
			f.SetOpen(origin, 1)
		}
		if err := act(f, w); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := w.merge(ctx)
		cancel()
		if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "there is no way back") {
			t.Errorf("%s: %v", name, err)
		}
		if begun, err := w.hasBegun(t.Context()); !begun || err != nil {
			t.Errorf("%s: begun %v, %v", name, begun, err)
		}
	}
}

// Somebody else merges another volume of the group, or waits for its merge.
func TestTheMergeOfSomebodyElseIsNotTakenBack(t *testing.T) {
	for _, open := range []int{0, 1} {
		f := server()
		w := walkOf(t, f, "vg00/dat_s")
		begun(t, w, stepMerging)
		w.kept, w.ready = t.TempDir(), true
		w.keepMetadata(t.Context())
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", open)
		if err := w.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := w.merge(ctx)
		cancel()
		if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "there is no way back") {
			t.Errorf("open %d: %v", open, err)
		}
		if v, ok := report(t, w).ByPath("vg00/app_s"); ok && !v.Merging {
			t.Errorf("open %d: the other merge is gone", open)
		}
	}
}

// LVM refuses every merge: there is nothing to take back, and its metadata is not written.
func TestNothingIsRestoredWhereNoMergeWaits(t *testing.T) {
	f := server()
	w := withMetadata(t, f)
	for range 2 {
		f.FailOn(errors.New("no"), "lvconvert")
	}
	if err := w.merge(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing was rolled back") {
		t.Error(err)
	}
	for _, argv := range f.Commands() {
		if argv[1] == "vgcfgrestore" {
			t.Error(argv)
		}
	}
}

// A volume that was merging when somebody took its device away is merged in half: LVM's metadata shows no difference.
func TestAVolumeWithoutDeviceIsNotTakenForUntouched(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/dat_s")
	begun(t, w, stepMerging)
	w.kept = t.TempDir()
	w.keepMetadata(t.Context())
	f.SetOpen("vg00/dat", 1)
	if err := w.lvm.Merge(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	f.SetOpen("vg00/dat", 0)
	off := []string{"lvm", "lvchange", "--activate", "n", "--", "vg00/dat"}
	if _, err := f.Run(t.Context(), command.Cmd{Argv: off}); err != nil {
		t.Fatal(err)
	}
	states, err := w.states(t.Context())
	if err != nil || states[w.state.Members[0]] != deferred {
		t.Fatal(states, err)
	}
	if err := w.unmerge(t.Context(), states); !errors.Is(err, fault.Busy) {
		t.Error(err)
	}
}
