package run

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
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
	return access.RefuseOnMember(live, mounts, members, func(path string, m filesystem.Mount, volume string) error {
		const msg = "volumes: %s, to be read live, lies on %s (%s), which is taken by snapshot"
		return fault.New(fault.BadArguments, msg, path, m.Point, volume).
			WithHint("leave %s out: it is in the snapshot", path)
	})
}

// refuseLocalInLive refuses a place of the backend inside a directory that is read live, because the backup would
// contain itself.
func refuseLocalInLive(d backup.Description, live []string) error {
	var errs []error
	for _, path := range d.Local {
		for _, dir := range live {
			if isWithin(path, dir) {
				const msg = "%s, which the backend %s uses, lies in %s, which is to be backed up"
				errs = append(errs, fault.New(fault.BadArguments, msg, path, d.Name, dir).
					WithHint("name a place elsewhere"))
			}
		}
	}
	return fault.All(errs...)
}

// isWithin reports whether dir is the directory root, or is below it on the same file system.
func isWithin(dir, root string) bool {
	var rootStat, dirStat unix.Stat_t
	if unix.Stat(root, &rootStat) != nil {
		return false
	}
	for ; ; dir += "/.." {
		if unix.Stat(dir, &dirStat) != nil || dirStat.Dev != rootStat.Dev {
			return false
		}
		if dirStat.Ino == rootStat.Ino {
			return true
		}
		if isFileSystemRoot(dir, dirStat.Ino) {
			return false
		}
	}
}

// isFileSystemRoot reports whether dir, which has the inode number ino, is its own parent, as / is.
func isFileSystemRoot(dir string, ino uint64) bool {
	var parent unix.Stat_t
	return unix.Stat(dir+"/..", &parent) != nil || parent.Ino == ino
}

// refuseHidden refuses paths on something that is mounted below one of the roots and is no root itself. The backend
// could not see them, because for it the root's snapshot is mounted over that.
func refuseHidden(paths []string, mounts []filesystem.Mount, roots []string) error {
	var errs []error
	for _, path := range paths {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		for _, root := range roots {
			if strings.HasPrefix(m.Point, root+"/") && !slices.Contains(roots, m.Point) {
				const msg = "%s lies on what is mounted at %s, below %s: the backend sees the snapshot of %s there instead"
				errs = append(errs, fault.New(fault.BadArguments, msg, path, m.Point, root, root).
					WithHint("mount it elsewhere, or leave one of the two out"))
			}
		}
	}
	return fault.All(errs...)
}
