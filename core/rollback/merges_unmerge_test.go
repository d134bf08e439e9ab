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

// withMetadata returns a rollback to all of the server's snapshots that has saved LVM's metadata.
func withMetadata(t *testing.T, f *lvmtest.Fake) *rollback {
	t.Helper()
	rb := newAtMerge(t, f, allSnapshots...)
	beginAt(t, rb, stepMerging)
	rb.merges.metadataDir = t.TempDir()
	rb.merges.keepMetadata(t.Context())
	if len(rb.warnings) > 0 {
		t.Fatal(rb.warnings)
	}
	return rb
}

// Something opens every volume after Rewind's last check and before LVM's, so that LVM defers all merges, and keeps the
// volumes open.
func TestMergesThatNeverBeganAreUndone(t *testing.T) {
	f := server()
	rb := withMetadata(t, f)
	rb.merges.ready = true
	for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
		f.SetOpen(origin, 1)
	}
	err := rb.merges.begin(t.Context())
	if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "nothing was rolled back") {
		t.Fatal(err)
	}
	if begun, err := rb.survey.hasBegun(t.Context()); begun || err != nil {
		t.Error("a merge has begun:", begun, err)
	}
	if v, ok := readReport(t, rb).ByPath("vg00/thin_s"); !ok || !v.Active {
		t.Error("the thin snapshot has lost its device")
	}
	for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
		f.SetOpen(origin, 0)
	}
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkMerging(t, rb)
	rb.merges.dropMetadata()
	if _, err := os.Stat(rb.merges.metadataDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the kept metadata is left:", err)
	}
}

// The metadata is not restored if another volume merges, or if somebody has changed the volume group since it was
// saved.
func TestBegunMergeIsNotUndone(t *testing.T) {
	for name, act := range map[string]func(f *lvmtest.Fake, rb *rollback) error{
		"another volume merges": func(f *lvmtest.Fake, rb *rollback) error { f.SetOpen("vg00/app", 0); return nil },
		"somebody extended one": func(f *lvmtest.Fake, rb *rollback) error {
			return rb.lvm.Extend(context.Background(), "vg00/dat", 128*mib)
		},
	} {
		f := server()
		rb := withMetadata(t, f)
		rb.merges.ready = true
		for _, origin := range []string{"vg00/dat", "vg00/app", "vg00/thin"} {
			f.SetOpen(origin, 1)
		}
		if err := act(f, rb); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := rb.merges.begin(ctx)
		cancel()
		if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "there is no way back") {
			t.Errorf("%s: %v", name, err)
		}
		if begun, err := rb.survey.hasBegun(t.Context()); !begun || err != nil {
			t.Errorf("%s: begun %v, %v", name, begun, err)
		}
	}
}

// Somebody else merges another volume of the group, or LVM has deferred that merge.
func TestForeignMergeIsNotUndone(t *testing.T) {
	for _, open := range []int{0, 1} {
		f := server()
		rb := newAtMerge(t, f, "vg00/dat_s")
		beginAt(t, rb, stepMerging)
		rb.merges.metadataDir, rb.merges.ready = t.TempDir(), true
		rb.merges.keepMetadata(t.Context())
		f.SetOpen("vg00/dat", 1)
		f.SetOpen("vg00/app", open)
		if err := rb.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := rb.merges.begin(ctx)
		cancel()
		if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), "there is no way back") {
			t.Errorf("open %d: %v", open, err)
		}
		if v, ok := readReport(t, rb).ByPath("vg00/app_s"); ok && !v.Merging {
			t.Errorf("open %d: the other merge is gone", open)
		}
	}
}

// LVM refuses every merge. Then no merge is to be forgotten, and the metadata is not restored.
func TestMetadataIsNotRestoredWithoutDeferredMerge(t *testing.T) {
	f := server()
	rb := withMetadata(t, f)
	for range 2 {
		f.FailOn(errors.New("no"), "lvconvert")
	}
	if err := rb.merges.begin(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing was rolled back") {
		t.Error(err)
	}
	for _, argv := range f.Commands() {
		if argv[1] == "vgcfgrestore" {
			t.Error(argv)
		}
	}
}

// If somebody removed the device of a volume while it was merging, it is half merged, and LVM's metadata looks as if
// the merge were deferred.
func TestUnmergeRefusesVolumeWithoutDevice(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s")
	beginAt(t, rb, stepMerging)
	rb.merges.metadataDir = t.TempDir()
	rb.merges.keepMetadata(t.Context())
	f.SetOpen("vg00/dat", 1)
	if err := rb.lvm.Merge(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	f.SetOpen("vg00/dat", 0)
	off := []string{"lvm", "lvchange", "--activate", "n", "--", "vg00/dat"}
	if _, err := f.Run(t.Context(), command.Cmd{Argv: off}); err != nil {
		t.Fatal(err)
	}
	states, err := rb.survey.states(t.Context())
	if err != nil || states[rb.state.Members[0]] != stateDeferred {
		t.Fatal(states, err)
	}
	if err := rb.merges.unmerge(t.Context(), states); !errors.Is(err, fault.Busy) {
		t.Error(err)
	}
}
