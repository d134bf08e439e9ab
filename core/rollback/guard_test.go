package rollback

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/filesystem"
)

// The guard's files, as systemd reads them at boot: testdata/guard.txt has each with its path. SELF stands for the
// running program.
func TestGuardFiles(t *testing.T) {
	w := &walk{state: &State{
		Mounts: []filesystem.MountSpec{{Point: "/dat"}, {Point: "/srv/my-app data"}},
		Members: []*Member{
			{VG: "vg00", LV: "dat"},
			{VG: "vg00", LV: "app", Crypt: "crypt-app"},
		},
	}}
	files, err := w.guardFiles()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, path := range slices.Sorted(maps.Keys(files)) {
		got.WriteString("-- " + path + " --\n" + strings.ReplaceAll(files[path], self, "SELF"))
	}
	golden := filepath.Join("testdata", "guard.txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s\nUPDATE=1 go test ./core/rollback writes it anew", diff)
	}
}

// A unit that a link starts at boot must be one that is written.
func TestGuardLinksLeadToGuardFiles(t *testing.T) {
	w := &walk{state: &State{}}
	files, err := w.guardFiles()
	if err != nil {
		t.Fatal(err)
	}
	for link, to := range guardLinks {
		target := filepath.Join(filepath.Dir(link), to)
		if _, written := files[target]; !written {
			t.Errorf("%s leads to %s", link, target)
		}
	}
}
