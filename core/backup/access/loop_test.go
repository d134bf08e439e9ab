package access

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
)

// What is stored in a file on a volume of the set fills the set's snapshots.
func TestPlaceInALoopFileOnAMemberIsFound(t *testing.T) {
	disk, member := filesystem.NewDev(7, 0), filesystem.NewDev(253, 7)
	defer func(before string) { sysfs, loopFile = before, filesystem.LoopFile }(sysfs)
	sysfs = t.TempDir()
	dir := filepath.Join(sysfs, "dev/block", disk.String())
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "loop"), 0o755),
		os.WriteFile(filepath.Join(dir, "dev"), []byte(disk.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "loop/backing_file"), []byte("/dat/disk"), 0o644)); err != nil {
		t.Fatal(err)
	}
	members := map[filesystem.Dev]string{member: "vg00/dat"}
	loopFile = func(string) (on, node filesystem.Dev, ok bool) { return filesystem.NewDev(8, 1), node, true }
	if volume, ok := memberBelow(disk, members); ok {
		t.Errorf("a file system of its own lies on %s", volume)
	}
	loopFile = func(string) (on, node filesystem.Dev, ok bool) { return member, filesystem.Dev{}, true }
	if volume, ok := memberBelow(disk, members); !ok || volume != "vg00/dat" {
		t.Errorf("a file on the member: %q, %v", volume, ok)
	}
}
