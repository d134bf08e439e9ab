package rollback

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// programs are those that can ask for a rollback. Who called one waits for the unit that does the work, and holds the
// file system open on which the called program lies.
var programs = []string{"lvm_merge", "snap_backup"}

// calledFrom is this program as a holder, if it lies on one of the devices: a run that only looks is the called program
// itself, and a holder does not see itself.
func calledFrom(devs []filesystem.Dev) []filesystem.Holder {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return nil
	}
	dev := filesystem.Dev{Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev)}
	path, err := os.Readlink("/proc/self/exe")
	if err != nil || !slices.Contains(devs, dev) {
		return nil
	}
	return []filesystem.Holder{{
		Kind: "process", How: "exe", Path: path, PID: os.Getpid(), Command: filepath.Base(path), Dev: dev,
	}}
}

// copyElsewhere says what to do about a called program that lies on a volume; nothing about other holders.
func copyElsewhere(holders []filesystem.Holder) (hint string, others []filesystem.Holder) {
	var paths []string
	for _, h := range holders {
		if h.How == "exe" && slices.Contains(programs, filepath.Base(h.Path)) {
			paths = append(paths, h.Path)
		} else {
			others = append(others, h)
		}
	}
	if len(paths) == 0 {
		return "", holders
	}
	return fmt.Sprintf("the program that was called, %s, lies on a volume that is unmounted: copy it to another file "+
		"system, such as /run, and call it there", strings.Join(slices.Compact(paths), ", ")), others
}
