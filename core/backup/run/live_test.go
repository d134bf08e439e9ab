package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// A backend would store only the link, not the directory that it leads to.
func TestSymbolicLinkIsNotReadLive(t *testing.T) {
	dir := t.TempDir()
	target, link, dangling := filepath.Join(dir, "real"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	err := errors.Join(os.MkdirAll(target+"/deep", 0o755), os.Symlink("real", link), os.Symlink("gone", dangling))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fault.Code{
		target: "", link: fault.BadArguments, link + "/deep": "", dangling: fault.NotFound, dir + "/none": fault.NotFound,
	} {
		err := checkLiveDirectories([]string{path})
		if want == "" && err != nil || want != "" && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
		if want == fault.BadArguments && (err == nil || !strings.Contains(fault.Of(err).Hint, target)) {
			t.Errorf("%s: the hint does not name the link's target: %v", path, err)
		}
	}
}

func TestLiveDirectoryOnMemberIsRefused(t *testing.T) {
	dir := t.TempDir()
	mounts, err := filesystem.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	on, err := filesystem.Holding(mounts, dir)
	if err != nil {
		t.Fatal(err)
	}
	err = refuseLiveOnMembers([]string{dir}, mounts, map[filesystem.Dev]string{on.Dev: "vg00/dat"})
	want := dir + ", to be read live, lies on " + on.Point + " (vg00/dat)"
	if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), want) {
		t.Errorf("on a volume of the set: %v", err)
	}
	otherMembers := map[filesystem.Dev]string{{Major: 4095, Minor: 1}: "vg00/dat"}
	if err := refuseLiveOnMembers([]string{dir}, mounts, otherMembers); err != nil {
		t.Errorf("on another volume: %v", err)
	}
}

func TestRepositoryInLiveDirectoryIsRefused(t *testing.T) {
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.MkdirAll(dir+"/deep/backups", 0o755), os.Symlink(dir+"/deep/backups", link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/deep/backups", link} {
		err := refuseLocalInLive(backup.Description{Name: "mirror", Local: []string{path}}, []string{"/boot", dir})
		if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := refuseLocalInLive(backup.Description{Local: []string{dir}}, []string{dir + "/deep"}); err != nil {
		t.Errorf("the directory is inside the repository, not the other way round: %v", err)
	}
	err := errors.Join(unix.Mount("tmpfs", dir+"/deep", "tmpfs", 0, ""), os.Mkdir(dir+"/deep/backups", 0o755))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/deep", 0) })
	if err := refuseLocalInLive(backup.Description{Local: []string{dir + "/deep/backups"}}, []string{dir}); err != nil {
		t.Errorf("on another file system below the directory: %v", err)
	}
}

func TestPathHiddenBySnapshotIsRefused(t *testing.T) {
	mounts := []filesystem.Mount{
		{Point: "/", Dev: filesystem.Dev{Major: 8}}, {Point: "/dat", Dev: filesystem.Dev{Major: 9}},
		{Point: "/dat/nfs", Dev: filesystem.Dev{Major: 10}}, {Point: "/dat/wal", Dev: filesystem.Dev{Major: 11}},
		{Point: "/database", Dev: filesystem.Dev{Major: 12}},
	}
	roots := []string{"/dat", "/dat/wal"}
	for path, want := range map[string]bool{
		"/dat/nfs": false, "/dat/nfs/deep": false, "/dat/wal/x": true, "/dat/x": true, "/database/x": true, "/srv": true,
	} {
		err := refuseHidden([]string{path}, mounts, roots)
		refused := errors.Is(err, fault.BadArguments) && strings.Contains(err.Error(), "/dat/nfs")
		if want && err != nil || !want && !refused {
			t.Errorf("%s: %v", path, err)
		}
	}
}
