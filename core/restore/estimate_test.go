package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/tree"
)

// mountOn mounts something for the time of the test, which only root can do.
func mountOn(t *testing.T, source, dir, kind, options string) {
	t.Helper()
	if err := unix.Mount(source, dir, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// A FUSE mount that a user has made in a volume lets in nobody else, not even root. It is no part of the volume.
func TestEstimateIsNotKeptFromVolumeByMountInIt(t *testing.T) {
	from, volume := t.TempDir(), t.TempDir()
	mountOn(t, "tmpfs", volume, "tmpfs", "size=1m")
	for _, dir := range []string{filepath.Join(from, "home"), filepath.Join(volume, "home")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(from, "home", "covered"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err) // what shows a backup as a file system needs it, too
	}
	defer fuse.Close()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=1000,group_id=1000", fuse.Fd())
	mountOn(t, "user", filepath.Join(volume, "home"), "fuse", options)
	mounts, err := filesystem.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	m, ok := filesystem.At(mounts, volume)
	if !ok {
		t.Fatalf("nothing is mounted at %s", volume)
	}
	need, err := estimateMounted(t.Context(), from, m, tree.Options{OneFileSystem: true})
	if err != nil {
		t.Fatal(err)
	}
	if need.Least != 8192 {
		t.Errorf("what is below the mount point is not compared: %+v", need)
	}
}
