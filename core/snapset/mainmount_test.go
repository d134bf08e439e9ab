package snapset

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// The mount that the user named is the main one, wherever it is in the kernel's table, because a backup names the
// volume by it. If the mount that a bind mount was made from has been unmounted and mounted again, the table has the
// bind mount first.
func TestNamedMountComesFirst(t *testing.T) {
	noFstab(t)
	srv := newServer(t)
	dat, _ := filesystem.At(srv.mounts, "/dat")
	part, bind, second := dat, dat, dat
	part.Root, part.Point, bind.Point, second.Point = "/logs", "/var/log/app", "/export/dat", "/second"
	srv.mounts = append([]filesystem.Mount{srv.mounts[0], part, bind}, append(srv.mounts[1:], second)...)
	for word, want := range map[string]string{
		"/dat": "/dat", "/export/dat": "/export/dat", "/second": "/second", "vg00/dat": "/export/dat",
	} {
		targets, err := srv.view().Resolve(volumesNamed(word))
		if err != nil {
			t.Fatal(err)
		}
		mounts := targets[0].Mounts
		if len(mounts) != 4 || mounts[0].Point != want {
			t.Errorf("%s: the first of %d is %s", word, len(mounts), mounts[0].Point)
		}
	}
	if m := srv.view().mainMount("vg00", "dat"); m.Point != "/export/dat" {
		t.Errorf("the main mount is a bind mount of a directory: %s", m.Point)
	}
}

func TestFstabMountComesFirstIfNoneIsNamed(t *testing.T) {
	device, dev := fakeDevice(t)
	fstabFile = filepath.Join(t.TempDir(), "fstab")
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
	if err := os.WriteFile(fstabFile, []byte(fmt.Sprintf("%s /dat xfs defaults 0 2\n", device)), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := []filesystem.Mount{
		{Dev: dev, Root: "/", Point: "/export/dat"}, {Dev: dev, Root: "/", Point: "/dat"},
		{Dev: dev, Root: "/x", Point: "/x"},
	}
	if first := mainMountFirst(mounts, device)[0]; first.Point != "/dat" {
		t.Errorf("the first is %s", first.Point)
	}
}

// fakeDevice makes the device node of a block device that does not exist.
func fakeDevice(t *testing.T) (string, filesystem.Dev) {
	t.Helper()
	path, dev := filepath.Join(t.TempDir(), "device"), filesystem.NewDev(240, 7)
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(dev.Major, dev.Minor))); err != nil {
		t.Fatal(err)
	}
	return path, dev
}
