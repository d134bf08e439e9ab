package filesystem

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
)

// block adds a device to a /sys made of files: a directory below devices/, and a link dev/block/MAJOR:MINOR to it.
func block(t *testing.T, sys, folder, dev string, files map[string]string) {
	t.Helper()
	dir := filepath.Join(sys, "devices", folder)
	put := func(file, text string) {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("dev", dev)
	for file, text := range files {
		put(file, text)
	}
	link(t, dir, filepath.Join(sys, "dev/block", dev))
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// luks returns a /sys with a LUKS mapping on a logical volume that lies on two devices: a partition and a loop device.
func luks(t *testing.T) string {
	t.Helper()
	sys := t.TempDir()
	block(t, sys, "vda", "254:0", map[string]string{"size": "1"})
	block(t, sys, "vda/vda3", "254:3", map[string]string{"partition": "3"})
	block(t, sys, "loop0", "7:0", map[string]string{"loop/backing_file": "/img"})
	block(t, sys, "dm-0", "253:0", map[string]string{"dm/name": "vg00-dat", "dm/uuid": "LVM-abc"})
	block(t, sys, "dm-1", "253:1", map[string]string{"dm/name": "secret", "dm/uuid": "CRYPT-LUKS2-x-secret"})
	devices := filepath.Join(sys, "devices")
	for _, pair := range [][2]string{{"dm-1", "dm-0"}, {"dm-0", "loop0"}, {"dm-0", "vda/vda3"}} {
		link(t, filepath.Join(devices, pair[1]), filepath.Join(devices, pair[0], "slaves", filepath.Base(pair[1])))
		link(t, filepath.Join(devices, pair[0]), filepath.Join(devices, pair[1], "holders", pair[0]))
	}
	return sys
}

var (
	secret = Layer{"secret", "crypt", "CRYPT-LUKS2-x-secret", Dev{253, 1}}
	volume = Layer{"vg00-dat", "lvm", "LVM-abc", Dev{253, 0}}
)

func TestStack(t *testing.T) {
	got, err := Stack(luks(t), Dev{253, 1})
	if err != nil {
		t.Fatal(err)
	}
	want := []Layer{
		secret, volume,
		{"loop0", "loop", "", Dev{7, 0}}, {"vda3", "part", "", Dev{254, 3}}, {"vda", "disk", "", Dev{254, 0}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Stack(luks(t), Dev{9, 9}); fault.Of(err).Code != fault.NotFound {
		t.Errorf("a device that is not there: %v", err)
	}
}

func TestVolumeBelowFindsTheVolumeOfACryptMapping(t *testing.T) {
	sys := luks(t)
	for _, dev := range []Dev{secret.Dev, volume.Dev} {
		got, ok, err := VolumeBelow(sys, dev)
		if err != nil || !ok || got != volume {
			t.Errorf("below %v: %+v, %v, %v", dev, got, ok, err)
		}
	}
	if _, ok, err := VolumeBelow(sys, Dev{254, 3}); ok || err != nil {
		t.Errorf("a partition is on a volume: %v, %v", ok, err)
	}
	above, err := Above(sys, volume.Dev)
	if diff := cmp.Diff([]Layer{secret}, above); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if above, err := Above(sys, secret.Dev); len(above) != 0 || err != nil {
		t.Errorf("above the mapping: %v, %v", above, err)
	}
}

func TestInContainer(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		want  string
	}{
		{nil, ""},
		{map[string]string{"run/systemd/container": "lxc\n"}, "lxc"},
		{map[string]string{"proc/1/environ": "A=1\x00container=podman\x00B=2"}, "podman"},
		{map[string]string{"proc/1/environ": "xcontainer=podman"}, ""},
		{map[string]string{"proc/vz/x": ""}, "openvz"},
		{map[string]string{"proc/vz/x": "", "proc/bc/x": ""}, ""},
		{map[string]string{".dockerenv": ""}, "docker"},
	} {
		root := t.TempDir()
		for name, text := range c.files {
			writeFile(t, filepath.Join(root, name), text)
		}
		if got, yes := inContainer(root); got != c.want || yes != (c.want != "") {
			t.Errorf("%v: %q, %v", c.files, got, yes)
		}
	}
}
