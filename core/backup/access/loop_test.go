package access

import (
	"testing"

	"go.pcc.com/rewind/core/filesystem"
)

// What is stored in a file on a volume of the set fills the set's snapshots.
func TestPlaceInALoopFileOnAMemberIsFound(t *testing.T) {
	mounts, err := filesystem.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var disk filesystem.Dev // any block device of this host
	for _, m := range mounts {
		if layers, err := filesystem.Stack("/sys", m.Dev); err == nil && len(layers) > 0 {
			disk = m.Dev
		}
	}
	if disk == (filesystem.Dev{}) {
		t.Fatal("this host has no file system on a block device")
	}
	member := filesystem.NewDev(253, 7)
	members := map[filesystem.Dev]string{member: "vg00/dat"}
	defer func() { loopFile = filesystem.LoopFile }()
	if volume, ok := memberBelow(disk, members); ok {
		t.Errorf("a file system of its own lies on %s", volume)
	}
	loopFile = func(string) (on, node filesystem.Dev, ok bool) { return member, filesystem.Dev{}, true }
	if volume, ok := memberBelow(disk, members); !ok || volume != "vg00/dat" {
		t.Errorf("a file on the member: %q, %v", volume, ok)
	}
}
