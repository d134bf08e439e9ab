package lvm

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// CopyDirs returns the directories in which LVM keeps copies of its metadata, which it writes at each change:
// archive_dir and backup_dir (lvm.conf(5)). It runs one command. Fault: command_failed.
func (l *LVM) CopyDirs(ctx context.Context) ([]string, error) {
	return l.directories(ctx, "backup/archive_dir", "backup/backup_dir")
}

// directories returns the values of LVM's settings, each of which is the absolute path of a directory.
func (l *LVM) directories(ctx context.Context, settings ...string) ([]string, error) {
	argv := []string{"lvm", "lvmconfig", "--type", "full", "--"}
	out, err := l.query(ctx, append(argv, settings...)...)
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
	if len(dirs) != len(settings) {
		return nil, fault.New(fault.CommandFailed, "lvmconfig does not say what %s are: %q",
			strings.Join(settings, " and "), out.Stdout)
	}
	return dirs, nil
}
