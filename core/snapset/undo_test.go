package snapset

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// loggedDuring returns what the program writes to standard error while it does something.
func loggedDuring(t *testing.T, do func()) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stderr := os.Stderr
	os.Stderr = f
	defer func() { os.Stderr = stderr }()
	do()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whoever renames a snapshot wants to keep it. It does not belong to the set any more, so that a new one of that name
// can be taken, and no later removal finds it.
func TestUndoKeepsRenamedSnapshots(t *testing.T) {
	for _, renamed := range []string{"dat", "t1"} {
		for name, planOf := range map[string]func(srv *testServer, taken *Plan) *Plan{
			"creation": func(_ *testServer, taken *Plan) *Plan { return taken },
			"removal": func(srv *testServer, _ *Plan) *Plan {
				return srv.operation(Request{}).set.removalPlan(nil)
			},
		} {
			srv := newServer(t)
			taken := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/t1")})
			if _, err := take(t.Context(), srv.lvm, taken, time.Minute); err != nil {
				t.Fatal(err)
			}
			p := planOf(srv, taken)
			srv.Rename("vg00/"+renamed+"_s", "kept")
			log := loggedDuring(t, func() {
				for range 2 { // the program may be killed before it closes the journal entry
					if err := Undo(t.Context(), srv.lvm, p); err != nil {
						t.Error(err)
					}
				}
			})
			if want := "vg00/kept was renamed"; strings.Count(log, want) != 1 {
				t.Errorf("%s of %s: %q does not say once %q", name, renamed, log, want)
			}
			if _, exists := srv.report().Volume("vg00", "kept"); !exists {
				t.Errorf("%s of %s: what was renamed is gone", name, renamed)
			}
			if left := All(srv.report()); len(left) > 0 {
				t.Errorf("%s of %s: left of the set: %v", name, renamed, fullNames(left[0].Snapshots))
			}
			for _, snapshot := range []string{"dat_s", "t1_s"} {
				if _, exists := srv.report().Volume("vg00", snapshot); exists {
					t.Errorf("%s of %s: %s is left", name, renamed, snapshot)
				}
			}
		}
	}
}

// Until the last other snapshot is removed, the renamed one stays in the set: at the next boot the others would seem to
// be what is left of a set to which the journal was rolled back.
func TestUndoReleasesRenamedSnapshotLast(t *testing.T) {
	srv := serverWithSet(t)
	p := srv.operation(Request{}).set.removalPlan(nil)
	srv.Rename("vg00/dat_s", "kept")
	srv.FailOn(errors.New("in use"), "lvremove")
	if err := Undo(t.Context(), srv.lvm, p); err == nil {
		t.Error("no error")
	}
	isInSet := func(v *lvm.Volume) bool { return v.Name == "kept" }
	if !slices.ContainsFunc(srv.report().ByTag(tagID+"1"), isInSet) {
		t.Error("vg00/kept was taken out of the set before the rest of it was removed")
	}
}
