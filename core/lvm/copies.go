package lvm

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// CopyDirs returns the directories in which LVM keeps copies of its metadata, and writes at each change: archive_dir
// and backup_dir (lvm.conf(5)). One command.
func (l *LVM) CopyDirs(ctx context.Context) ([]string, error) {
	out, err := l.look(ctx, "lvm", "lvmconfig", "--type", "full", "backup/archive_dir", "backup/backup_dir")
	if err != nil {
		return nil, explain(err)
	}
	var dirs []string
	for line := range strings.Lines(out.Stdout) {
		_, quoted, _ := strings.Cut(strings.TrimSpace(line), "=")
		if dir, err := strconv.Unquote(quoted); err == nil && filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) != 2 {
		return nil, fault.New(fault.CommandFailed, "lvmconfig does not say where LVM keeps copies of its metadata: %q",
			out.Stdout)
	}
	return dirs, nil
}
