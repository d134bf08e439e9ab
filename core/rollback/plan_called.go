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

// modulePrograms are the programs that a rollback can be asked for with. Such a program waits for the unit that does
// the work, and meanwhile holds the file system open on which it lies.
var modulePrograms = []string{"lvm_merge", "snap_backup"}

// calledProgram returns this program as a holder, if it lies on one of the devices. That is needed with --check, where
// this program is the called program itself: a search for holders leaves out the process that searches.
func calledProgram(devs []filesystem.Dev) []filesystem.Holder {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return nil
	}
	dev := filesystem.DevOf(st.Dev)
	path, err := os.Readlink("/proc/self/exe")
	if err != nil || !slices.Contains(devs, dev) {
		return nil
	}
	return []filesystem.Holder{{
		Kind: "process", How: "exe", Path: path, PID: os.Getpid(), Command: filepath.Base(path), Dev: dev,
	}}
}

// calledProgramAdvice returns the hint for called programs that lie on a volume, and all other holders. Without such a
// program the hint is empty.
func calledProgramAdvice(holders []filesystem.Holder) (hint string, others []filesystem.Holder) {
	var paths []string
	for _, h := range holders {
		if h.How == "exe" && slices.Contains(modulePrograms, filepath.Base(h.Path)) {
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
