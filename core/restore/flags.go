package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/fault"
)

// readFlags reads which files of the backup have inode flags, where the backend keeps that. Else those that were
// recorded when it was made are believed.
func (w *work) readFlags(p backup.Presented) error {
	if p.Flags == "" {
		return nil
	}
	file, err := os.OpenFile(p.Flags, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fault.New(fault.BackendFailed, "backup %s: the list of inode flags: %w", w.stored.ID, err)
	}
	defer file.Close()
	if w.flags, err = backup.ReadFlags(file); err != nil {
		return fault.New(fault.BackendFailed, "backup %s: the list of inode flags cannot be read: %w", w.stored.ID, err)
	}
	return nil
}

// few is how many paths of each volume a warning names.
const few = 3

// flagsLost warns where the backend does not keep inode flags, none are recorded, the volumes have some, and files were
// made anew: what is in its place has kept its own.
func (w *work) flagsLost() []string {
	if w.flags != nil {
		return nil
	}
	var made int64
	var flagged []string
	for i, d := range w.done {
		made += d.Created
		for _, rel := range d.Flagged[:min(few, len(d.Flagged))] {
			flagged = append(flagged, filepath.Join(run.Root(&w.planned.Targets[i]), rel))
		}
	}
	if made == 0 || len(flagged) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("backend %s keeps no inode flags (chattr +i, +a, +d), "+
		"and this server has no record of them. "+
		"What was in its place has kept its own, such as %s; "+
		"%d files and directories that were made anew have none: see lsattr -R",
		w.backend, strings.Join(flagged, ", "), made)}
}
