package snapset

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// The warning that fstab may mount the snapshot in place of the volume comes when the snapshot is taken, not only when
// it is rolled back.
func TestWarnsIfFstabMightMountSnapshot(t *testing.T) {
	fstabFile = filepath.Join(t.TempDir(), "fstab")
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
	fstab := "UUID=1234 /dat xfs defaults 0 0\n/dev/vg00/pccehr /pccehr ext4 defaults 0 0\nLABEL=x /other ext4\n"
	if err := os.WriteFile(fstabFile, []byte(fstab), 0o600); err != nil {
		t.Fatal(err)
	}
	target := func(name, point string) Target {
		lv := &lvm.Volume{VG: "vg00", Name: name, Path: "/dev/vg00/" + name}
		return Target{LV: lv, Mounts: []filesystem.Mount{{Point: point}}}
	}
	warnings := fstabWarnings([]Target{target("dat", "/dat"), target("pccehr", "/pccehr")})
	said := strings.Join(warnings, "\n")
	if len(warnings) != 1 || !strings.Contains(said, "UUID=1234") || !strings.Contains(said, "/dev/vg00/dat") {
		t.Errorf("%q", warnings)
	}
	readOnly := target("log", "/log")
	readOnly.LV.ReadOnly = true
	const refused = "a rollback to this set will be refused: vg00/log is read-only: LVM merges nothing into it"
	if warnings := rollbackWarnings([]Target{readOnly}); len(warnings) != 1 || warnings[0] != refused {
		t.Errorf("a read-only volume: %q", warnings)
	}
	if warnings := fstabWarnings(nil); len(warnings) != 0 {
		t.Errorf("without volumes: %q", warnings)
	}
}
