package snapset

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// A set must have a file system together with its log, and a log together with its file system.
func TestResolveRequiresAllPartsOfAFileSystem(t *testing.T) {
	noFstab(t)
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "xfs"}, {Name: "log"}, {Name: "ext"}, {Name: "journal"}, {Name: "shut"}, {Name: "plain"}, {Name: "tree"},
	}})
	srv.mount("vg00/xfs", "/xfs", "xfs")
	srv.mount("vg00/ext", "/ext", "ext4")
	srv.mount("vg00/plain", "/plain", "xfs")
	srv.mounts[0].Super = "rw,logdev=/dev/vg00/log,noquota"
	dev := func(name string) filesystem.Dev {
		v, _ := srv.report().ByPath("vg00/" + name)
		return devOf(v)
	}
	view := srv.view()
	byName := func(path string) (filesystem.Dev, error) {
		if v, ok := view.Report.ByPath(path); ok {
			return devOf(v), nil
		}
		return filesystem.Dev{}, fs.ErrNotExist
	}
	view.Device = byName
	view.Needs = func(device string) (filesystem.Needs, error) {
		return map[string]filesystem.Needs{
			"/dev/vg00/xfs": {Log: true}, "/dev/vg00/shut": {Log: true}, "/dev/vg00/journal": {IsJournal: true},
			"/dev/vg00/ext": {Journal: true, JournalOn: dev("journal")}, "/dev/vg00/tree": {Btrfs: true},
		}[device], nil
	}
	assertResolves(t, view, map[string]string{
		"/plain":                       "",
		"/xfs vg00/log":                "",
		"/ext vg00/journal /plain":     "",
		"/xfs":                         "vg00/xfs: its log lies on vg00/log, which is not in the set",
		"/ext vg00/log /xfs":           "vg00/ext: its journal lies on vg00/journal, which is not in the set",
		"vg00/log":                     "vg00/log belongs to the file system on /xfs, which is not in the set",
		"vg00/journal /plain":          "vg00/journal is the journal of a file system that is not in the set",
		"vg00/shut /xfs vg00/log":      "vg00/shut: its log lies on another device, and it is not known on which",
		"vg00/journal vg00/log /plain": "vg00/log belongs to the file system on /xfs, which is not in the set",
		"vg00/tree":                    "vg00/tree is btrfs",
	})
	for volumes, want := range map[string]string{
		"/xfs vg00/log":             "vg00/xfs and vg00/log would be damaged by a rollback to two instants: its log",
		"/plain /ext vg00/journal":  "vg00/ext and vg00/journal would be damaged by a rollback to two instants: its journal",
		"/plain /xfs vg00/log /ext": "vg00/journal, which is not in the set",
		"/plain vg00/shut":          "vg00/shut: its log",
	} {
		assertRefusedEach(t, view, volumes, want)
	}
	view.Mounts[0].Super = "rw,logdev=/dev/sdz"
	view.Device = func(string) (filesystem.Dev, error) { return filesystem.Dev{Major: 8, Minor: 99}, nil }
	_, err := view.Resolve(volumesNamed("vg00/xfs"))
	if err == nil || !strings.Contains(err.Error(), "no logical volume") {
		t.Errorf("a log on a disk: %v", err)
	}
	view.Mounts[0].Super = "rw,logdev=/dev/vg00/log"
	view.Device = byName
	view.TakeParts = true
	targets, err := view.Resolve(volumesNamed("/xfs", "/ext"))
	var names []string
	for i := range targets {
		names = append(names, fmt.Sprint(targets[i].LV.FullName(), " ", IsPart(&targets[i], targets)))
	}
	want := []string{"vg00/xfs false", "vg00/ext false", "vg00/log true", "vg00/journal true"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("with TakeParts: %v, %v, want %v", names, err, want)
	}
}
