package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/fault"
)

// readFlags reads the list of inode flags that the backend keeps for the files of the backup, unless this server
// recorded the flags when the backup was made: mirror's lists of earlier versions lack the files that were unchanged.
func (r *restoreRun) readFlags(presented backup.Presented) error {
	if presented.Flags == "" || r.flags != nil {
		return nil
	}
	file, err := os.OpenFile(presented.Flags, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fault.New(fault.BackendFailed, "backup %s: the list of inode flags: %w", r.backup.ID, err)
	}
	defer file.Close()
	if r.flags, err = backup.ReadFlags(file); err != nil {
		return fault.New(fault.BackendFailed, "backup %s: the list of inode flags cannot be read: %w", r.backup.ID, err)
	}
	return nil
}

// maxPathsNamed is how many paths of each volume a warning names.
const maxPathsNamed = 3

// lostFlagsWarnings warns if files were created without the inode flags that they may have had: the backend keeps no
// inode flags, this server has no record of them, and files on the volumes have some. Files that were already in place
// have kept their flags.
func (r answers) lostFlagsWarnings() []string {
	if r.flags != nil {
		return nil
	}
	var created int64
	var flagged []string
	for i, d := range r.synced {
		created += d.Created
		for _, rel := range d.Flagged[:min(maxPathsNamed, len(d.Flagged))] {
			flagged = append(flagged, filepath.Join(access.Root(&r.planned.Targets[i]), rel))
		}
	}
	if created == 0 || len(flagged) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("backend %s keeps no inode flags (chattr +i, +a, +d), "+
		"and this server has no record of them. "+
		"Files that were in place have kept their flags, such as %s; "+
		"%d files and directories that were created have none: see lsattr -R",
		r.backendName, strings.Join(flagged, ", "), created)}
}
