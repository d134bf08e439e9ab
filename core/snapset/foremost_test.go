package snapset

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// The mount that was named speaks for the volume, wherever the table has it: a backup knows the volume by it. The
// table has a bind mount before the mount that it was made from once that one was made anew.
func TestTheMountThatIsNamedIsTheFirst(t *testing.T) {
	noFstab(t)
	w := server(t)
	dat, _ := filesystem.At(w.mounts, "/dat")
	part, bind, second := dat, dat, dat
	part.Root, part.Point, bind.Point, second.Point = "/logs", "/var/log/app", "/export/dat", "/second"
	w.mounts = append([]filesystem.Mount{w.mounts[0], part, bind}, append(w.mounts[1:], second)...)
	for word, want := range map[string]string{
		"/dat": "/dat", "/export/dat": "/export/dat", "/second": "/second", "vg00/dat": "/export/dat",
	} {
		targets, err := w.view().Resolve(words(word))
		if err != nil {
			t.Fatal(err)
		}
		mounts := targets[0].Mounts
		if len(mounts) != 4 || mounts[0].Point != want {
			t.Errorf("%s: the first of %d is %s", word, len(mounts), mounts[0].Point)
		}
	}
	if m := w.view().mountOf("vg00", "dat"); m.Point != "/export/dat" {
		t.Errorf("a bind mount of a part of it speaks for the volume: %s", m.Point)
	}
}

func TestOfMountsThatAreNotNamedFstabsIsTheFirst(t *testing.T) {
	device, dev := someDevice(t)
	fstabFile = filepath.Join(t.TempDir(), "fstab")
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
	if err := os.WriteFile(fstabFile, []byte(fmt.Sprintf("%s /dat xfs defaults 0 2\n", device)), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := []filesystem.Mount{
		{Dev: dev, Root: "/", Point: "/export/dat"}, {Dev: dev, Root: "/", Point: "/dat"},
		{Dev: dev, Root: "/x", Point: "/x"},
	}
	if first := foremost(mounts, device)[0]; first.Point != "/dat" {
		t.Errorf("the first is %s", first.Point)
	}
}

// someDevice makes the node of a block device that need not be there.
func someDevice(t *testing.T) (string, filesystem.Dev) {
	t.Helper()
	path, dev := filepath.Join(t.TempDir(), "device"), filesystem.NewDev(240, 7)
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(dev.Major, dev.Minor))); err != nil {
		t.Fatal(err)
	}
	return path, dev
}
