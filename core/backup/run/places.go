package run

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// RefusePlaceOnMember refuses a backend with a place on a volume of the set, because what is written there would fill
// the set's snapshots. members has the names of the volumes, by the device of their file system. Fault: bad_arguments.
func RefusePlaceOnMember(d backup.Description, mounts []filesystem.Mount, members map[filesystem.Dev]string) error {
	var errs []error
	for _, path := range d.Local {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		if volume, ok := members[m.Dev]; ok {
			const msg = "%s, which the backend %s uses, lies on %s, which is one of the volumes"
			errs = append(errs, fault.New(fault.BadArguments, msg, path, d.Name, volume).
				WithHint("name a place on another volume"))
		}
	}
	return fault.All(errs...)
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

// fstab is the path of fstab(5), which tests replace.
var fstab = "/etc/fstab"

// RefuseUnmounted refuses a place of the backend, and a directory to be read live, below a mount point of fstab at
// which nothing is mounted. Otherwise backups would fill the file system below and be hidden by the next mount, and the
// wrong directory would be backed up. Faults: repository_missing for a place, not_found for a live directory.
func RefuseUnmounted(d backup.Description, live []string) error {
	entries, err := filesystem.Fstab(fstab)
	if err != nil {
		return err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	check := func(code fault.Code, path, what string) {
		point, missing, err := filesystem.Unmounted(entries, mounts, path)
		if missing {
			err = fault.New(code, "%s, %s: fstab mounts something at %s, and nothing is mounted there", path, what, point).
				WithHint("mount %s; or take its line out of %s", point, fstab)
		}
		errs = append(errs, err)
	}
	for _, path := range d.Local {
		check(fault.RepositoryMissing, path, "which the backend "+d.Name+" uses")
	}
	for _, path := range live {
		check(fault.NotFound, path, "to be read live")
	}
	return fault.All(errs...)
}
