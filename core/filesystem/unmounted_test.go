package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A file system of fstab that is not mounted yet would hide what is written at its mount point, or below it, now.
func TestUnmountedNamesThePointThatWouldHideAPath(t *testing.T) {
	dir := t.TempDir()
	srv, link := filepath.Join(dir, "srv"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(srv+"/deep", 0o755), os.Symlink("srv/deep", link)); err != nil {
		t.Fatal(err)
	}
	listed := func(point string, options ...string) []FstabEntry {
		return []FstabEntry{
			{"/dev/sda2", "none", "swap", nil}, {"/dev/sda1", "/", "ext4", nil}, {"/dev/sdb1", point, "ext4", options},
		}
	}
	found := func(entries []FstabEntry, path string) string {
		t.Helper()
		mounts, err := Mounts()
		if err != nil {
			t.Fatal(err)
		}
		point, ok, err := Unmounted(entries, mounts, path)
		if err != nil || ok != (point != "") {
			t.Errorf("%s: %q, %v, %v", path, point, ok, err)
		}
		return point
	}
	for _, path := range []string{srv, srv + "/deep", srv + "/not/there/yet", link} {
		if point := found(listed(srv, "defaults", "nofail"), path); point != srv {
			t.Errorf("%s lies on what is not mounted: %q", path, point)
		}
	}
	if point := found(listed(link+"/"), srv+"/deep/x"); point != link+"/" {
		t.Errorf("fstab names the point by a link: %q", point)
	}
	for _, path := range []string{dir, srv + "er"} {
		if point := found(listed(srv), path); point != "" {
			t.Errorf("%s is not below %s", path, point)
		}
	}
	if point := found(listed(srv, "noauto"), srv); point != srv {
		t.Errorf("%s would be mounted on request: %q", srv, point)
	}
	if point := found(MountedAtBoot(listed(srv, "noauto")), srv); point != "" {
		t.Errorf("%s is not mounted at boot", point)
	}
	if err := unix.Mount("tmpfs", srv, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(srv, 0) })
	for _, point := range []string{srv, dir} {
		if point := found(listed(point), srv+"/deep"); point != "" {
			t.Errorf("%s is, or holds, where something is mounted", point)
		}
	}
	automount := []Mount{{ID: 1, Point: "/", Root: "/"}, {ID: 2, Parent: 1, Point: "/net", Type: Autofs}}
	if point, ok, err := Unmounted(listed("/net"), automount, "/net/not/there"); ok || err != nil {
		t.Errorf("an automount point counts as mounted: %q, %v", point, err)
	}
}
