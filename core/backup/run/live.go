package run

import (
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// checkLiveDirectories refuses paths to be read live that are not directories. A symbolic link to a directory is
// refused, too, because a backend would store only the link.
func checkLiveDirectories(paths []string) error {
	var errs []error
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			errs = append(errs, fault.New(fault.NotFound, "volumes: %s, to be read live, is no directory", path))
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			continue // if the directory has gone since Stat, the backend fails
		}
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			target = "the directory that it leads to"
		}
		errs = append(errs, fault.New(fault.BadArguments, "volumes: %s, to be read live, is a symbolic link", path).
			WithHint("name %s", target))
	}
	return fault.All(errs...)
}

// refuseLiveOnMembers refuses a directory to be read live that is on a volume of the set. The snapshot contains it
// already; and as it would be a root of its own, a restore of the volume would leave it out.
func refuseLiveOnMembers(live []string, mounts []filesystem.Mount, members map[filesystem.Dev]string) error {
	var errs []error
	for _, path := range live {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		if volume, ok := members[m.Dev]; ok {
			const msg = "volumes: %s, to be read live, lies on %s (%s), which is taken by snapshot"
			errs = append(errs, fault.New(fault.BadArguments, msg, path, m.Point, volume).
				WithHint("leave %s out: it is in the snapshot", path))
		}
	}
	return fault.All(errs...)
}
