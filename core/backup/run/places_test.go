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

func TestUnmountedMountPointIsRefused(t *testing.T) {
	dir := t.TempDir()
	fstab = filepath.Join(dir, "fstab")
	t.Cleanup(func() { fstab = "/etc/fstab" })
	point := filepath.Join(dir, "point")
	line := "LABEL=backup " + point + " ext4 nofail 0 2\n"
	if err := errors.Join(os.MkdirAll(point+"/host", 0o755), os.WriteFile(fstab, []byte(line), 0o600)); err != nil {
		t.Fatal(err)
	}
	d := backup.Description{Name: "mirror", Local: []string{point + "/host"}}
	want := "fstab mounts something at " + point + ", and nothing is mounted there"
	for code, err := range map[fault.Code]error{
		fault.RepositoryMissing: RefuseUnmounted(d, nil),
		fault.NotFound:          RefuseUnmounted(backup.Description{}, []string{point}),
	} {
		if !errors.Is(err, code) || !strings.Contains(err.Error(), want) ||
			!strings.Contains(fault.Of(err).Hint, "mount "+point) {
			t.Errorf("%s: %v", code, err)
		}
	}
	if err := RefuseUnmounted(backup.Description{Local: []string{dir}}, []string{dir}); err != nil {
		t.Errorf("the mount point is below the path: %v", err)
	}
	if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(point, 0) })
	if err := RefuseUnmounted(d, []string{point}); err != nil {
		t.Errorf("it is mounted: %v", err)
	}
}
