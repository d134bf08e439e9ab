package snapset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// stackedOn adds to the directory sysfs a device that lies on others.
func stackedOn(t *testing.T, sysfs, dev string, files map[string]string, on ...string) {
	t.Helper()
	dir := filepath.Join(sysfs, "dev/block", dev)
	files["dev"] = dev
	for file, text := range files {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(from, direction, to string) {
		folder := filepath.Join(sysfs, "dev/block", from, direction)
		if err := errors.Join(os.MkdirAll(folder, 0o755), os.Symlink("../../"+to, filepath.Join(folder, to))); err != nil {
			t.Fatal(err)
		}
	}
	for _, below := range on {
		link(dev, "slaves", below)
		link(below, "holders", dev)
	}
}

// A volume that a device is made of can be in a set only together with all others that the device is made of. A
// physical volume of LVM is refused, and so is a volume together with one that lies in a file on it.
func TestResolveChecksStackedDevices(t *testing.T) {
	noFstab(t)
	srv := newTestServer(t,
		lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
			{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "pv"}, {Name: "secret"}, {Name: "files"}, {Name: "plain"},
		}},
		lvmtest.Group{Name: "vg01", Volumes: []lvmtest.Volume{{Name: "x"}, {Name: "y"}}})
	srv.mount("vg00/files", "/files", "ext4")
	number := func(name string) string {
		v, _ := srv.report().ByPath(name)
		return devOf(v).String()
	}
	view := srv.view()
	view.Needs = func(string) (filesystem.Needs, error) { return filesystem.Needs{}, nil }
	stackedOn(t, view.Sysfs, "9:0", map[string]string{"md/level": "raid1"}, number("vg00/a"), "253:90")
	stackedOn(t, view.Sysfs, "253:90", map[string]string{"dm/uuid": "x", "dm/name": "joined"},
		number("vg00/b"), number("vg00/c"))
	stackedOn(t, view.Sysfs, "253:91", map[string]string{"dm/uuid": "CRYPT-x", "dm/name": "opened"}, number("vg00/secret"))
	stackedOn(t, view.Sysfs, number("vg01/x"), map[string]string{}, "253:91", number("vg00/pv"))
	stackedOn(t, view.Sysfs, "7:0", map[string]string{"loop/backing_file": "/files/disk"})
	stackedOn(t, view.Sysfs, number("vg01/y"), map[string]string{}, "7:0")
	view.LoopFile = func(node string) (on, is filesystem.Dev, ok bool) {
		return view.Mounts[0].Dev, is, node == "/dev/7:0"
	}
	assertResolves(t, view, map[string]string{
		"vg00/plain":                 "",
		"vg00/a vg00/b vg00/c":       "",
		"/files vg00/plain":          "",
		"vg01/y vg00/plain":          "",
		"vg00/a vg00/plain":          "vg00/a: 9:0 is made of it and of joined, which is not in the set",
		"vg00/b vg00/a":              "vg00/b: joined is made of it and of vg00/c, which is not in the set",
		"vg00/pv":                    "vg00/pv is a physical volume of LVM: vg01/x lies on it",
		"vg00/secret vg00/pv vg01/x": "vg00/secret is a physical volume of LVM: vg01/x lies on it",
		"/files vg01/y":              "vg01/y lies on 7:0, whose file is on vg00/files, and both are in the set",
	})

	assertRefusedEach(t, view, "vg00/plain vg00/a vg00/b vg00/c",
		"vg00/b and vg00/c would be damaged by a rollback to two instants: joined")
}

// assertRefusedEach fails the test if a set in which each volume has an instant of its own is not refused.
func assertRefusedEach(t *testing.T, view *View, volumes, want string) {
	t.Helper()
	targets, err := view.Resolve(volumesNamed(strings.Fields(volumes)...))
	if err == nil {
		_, err = view.New(SetSpec{Set: "s", Each: true}, "id-1", targets)
	}
	if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s with consistency=volume: %v, want %q", volumes, err, want)
	}
}

// LVM may only not see a physical volume that it calls missing, so the hint does not say to remove it from the group.
func TestHintForMissingPhysicalVolumeIsLvmdevices(t *testing.T) {
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Partial: true, Volumes: []lvmtest.Volume{{Name: "dat"}}})
	_, err := srv.view().Resolve(volumesNamed("vg00/dat"))
	expectFault(t, err, fault.Unsupported, "missing physical volumes")
	if hint := fault.Of(err).Hint; !strings.Contains(hint, "lvmdevices --adddev") || strings.Contains(hint, "vgreduce") {
		t.Errorf("hint %q", hint)
	}
}
