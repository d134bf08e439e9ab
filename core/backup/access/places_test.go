package access

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

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
	if err := os.WriteFile(fstab, []byte("LABEL=backup "+point+" ext4 noauto 0 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RefuseUnmounted(d, nil); !errors.Is(err, fault.RepositoryMissing) || !strings.Contains(err.Error(), want) {
		t.Errorf("a place that is mounted on request: %v", err)
	}
	if err := RefuseUnmounted(backup.Description{}, []string{point}); err != nil {
		t.Errorf("a live directory at which something is mounted on request: %v", err)
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
