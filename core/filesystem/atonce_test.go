package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountArguments(t *testing.T) {
	for _, c := range []struct {
		fstype  string
		options []string
		flags   uintptr
		data    string
	}{
		{
			"xfs", []string{"rw", "relatime", "inode64", "logbufs=8", "usrquota"},
			unix.MS_RELATIME, "inode64,logbufs=8,usrquota",
		},
		{
			"ext4", []string{"ro", "defaults", "nofail", "noatime", "x-systemd.device-timeout=5", "errors=remount-ro"},
			unix.MS_RDONLY | unix.MS_NOATIME, "errors=remount-ro",
		},
		{"xfs", nil, 0, ""},
	} {
		spec := MountSpec{Source: "/dev/vg00/dat", Point: "/dat", Type: c.fstype, Options: c.options}
		flags, data, err := spec.mountArguments()
		if err != nil || flags != c.flags || data != c.data {
			t.Errorf("%v: %x %q, %v", c.options, flags, data, err)
		}
	}
	for name, spec := range map[string]MountSpec{
		"a bind mount":          {Bind: "/dat/logs", Point: "/logs"},
		"another file system":   {Type: "btrfs"},
		"a type not given":      {},
		"mount(8)'s own option": {Type: "xfs", Options: []string{"X-mount.mkdir"}},
		"a loop device":         {Type: "ext4", Options: []string{"loop"}},
		"the option users":      {Type: "ext4", Options: []string{"users"}},
		"an SELinux context":    {Type: "xfs", Options: []string{`context="system_u:object_r:x:s0:c1,c2"`}},
	} {
		if _, _, err := spec.mountArguments(); !errors.Is(err, errNeedsMountProgram) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The mount table should name the device as it does after a mount by mount(8).
func TestMapperPath(t *testing.T) {
	dir := t.TempDir()
	node, link := filepath.Join(dir, "dm-7"), filepath.Join(dir, "dat")
	sys := filepath.Join(dir, "sys/class/block/dm-7/dm")
	if err := errors.Join(os.WriteFile(node, nil, 0o600), os.Symlink(node, link), os.MkdirAll(sys, 0o700),
		os.WriteFile(filepath.Join(sys, "name"), []byte("vg00-dat\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := mapperPath(link, filepath.Join(dir, "sys")); err != nil || got != "/dev/mapper/vg00-dat" {
		t.Error(got, err)
	}
	if got, err := mapperPath(filepath.Join(dir, "sys"), filepath.Join(dir, "sys")); err == nil {
		t.Error("a path that is no device-mapper device got the name", got)
	}
}
