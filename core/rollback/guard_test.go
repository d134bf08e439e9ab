package rollback

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// The guard's files, as systemd reads them at boot: testdata/guard.txt has each with its path. SELF stands for the
// running program.
func TestGuardFiles(t *testing.T) {
	w := &walk{state: &State{
		Mounts: []filesystem.MountSpec{{Point: "/dat"}, {Point: "/srv/my-app data"}},
		Listed: []string{"/dat", "/idle"},
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
	for link, to := range guardLinks() {
		target := filepath.Join(filepath.Dir(link), to)
		if _, written := files[target]; !written {
			t.Errorf("%s leads to %s", link, target)
		}
	}
}

// The guard reads its records before it lets the members be mounted: a member that holds them would wait for itself.
func TestAVolumeThatTheGuardNeedsIsRefused(t *testing.T) {
	root := filesystem.Mount{ID: 1, Dev: filesystem.Dev{Major: 253}, Root: "/", Point: "/", Type: "ext4"}
	separate := func(point string) filesystem.Mount {
		return filesystem.Mount{ID: 2, Parent: 1, Dev: filesystem.Dev{Major: 253, Minor: 2}, Root: "/", Point: point, Type: "ext4"}
	}
	records := filesystem.Mount{ID: 3, Parent: 2, Dev: filesystem.Dev{Major: 253, Minor: 3}, Root: "/", Point: "/var/lib/rewind", Type: "ext4"}
	for name, c := range map[string]struct {
		mounts []filesystem.Mount
		member filesystem.Mount
		says   string // nothing: it is not refused as one that the guard needs
	}{
		"a separate /var":           {[]filesystem.Mount{root, separate("/var")}, separate("/var"), "holds /var/lib/rewind"},
		"a volume for the records":  {[]filesystem.Mount{root, separate("/var"), records}, records, "holds /var/lib/rewind"},
		"on the way to the records": {[]filesystem.Mount{root, separate("/var"), records}, separate("/var"), "is mounted on /var, above /var/lib/rewind"},
		"a neighbour":               {[]filesystem.Mount{root, separate("/var/lib/rew")}, separate("/var/lib/rew"), ""},
		"the root file system":      {[]filesystem.Mount{root}, root, ""},
	} {
		for _, put := range []bool{true, false} {
			w := &walk{Request: Request{Defer: put}, state: &State{}}
			target := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "v", Path: "/dev/vg00/v"}, FS: c.member.Dev, Mounts: []filesystem.Mount{c.member}}
			err := w.mounts(&found{sight: &sight{view: &snapset.View{Mounts: c.mounts}}, targets: []snapset.Target{target}})
			if refused := errors.Is(err, fault.Unsupported); refused != (c.says != "") {
				t.Errorf("%s, deferred %v: %v", name, put, err)
			} else if refused && (!strings.Contains(err.Error(), "vg00/v "+c.says) || !strings.Contains(fault.Of(err).Hint, "leave vg00/v out")) {
				t.Errorf("%s: %v, hint: %s", name, err, fault.Of(err).Hint)
			}
		}
	}
}
