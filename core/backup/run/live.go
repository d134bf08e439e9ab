package run

import (
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// areDirectories refuses what is no directory to be read live. A backend stores a link as what it is, and nothing of
// what it leads to.
func areDirectories(paths []string) error {
	var wrong []error
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			wrong = append(wrong, fault.New(fault.NotFound, "volumes: %s, to be read live, is no directory", path))
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			continue // one that has gone since then the backend misses
		}
		leads, err := filepath.EvalSymlinks(path)
		if err != nil {
			leads = "the directory that it leads to"
		}
		wrong = append(wrong, fault.New(fault.BadArguments, "volumes: %s, to be read live, is a symbolic link", path).
			WithHint("name %s", leads))
	}
	return fault.All(wrong...)
}

// beside refuses a directory to be read live that lies on a volume of the set. It is in the snapshot; and as a root of
// its own, a restore of the volume would leave it out.
func beside(live []string, mounts []filesystem.Mount, members map[filesystem.Dev]string) error {
	var wrong []error
	for _, path := range live {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		if volume, ok := members[m.Dev]; ok {
			const says = "volumes: %s, to be read live, lies on %s (%s), which is taken by snapshot"
			wrong = append(wrong, fault.New(fault.BadArguments, says, path, m.Point, volume).
				WithHint("leave %s out: it is in the snapshot", path))
		}
	}
	return fault.All(wrong...)
}
