package run

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// OnMember refuses a repository that lies on a volume of the set: writing to it would fill the very snapshots.
func OnMember(d backup.Description, mounts []filesystem.Mount, members map[filesystem.Dev]string) error {
	var wrong []error
	for _, path := range d.Local {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		if volume, ok := members[m.Dev]; ok {
			wrong = append(wrong, fault.New(fault.BadArguments, "%s, which the backend %s uses, lies on %s, which is one of the volumes", path, d.Name, volume).
				WithHint("name a place on another volume"))
		}
	}
	return fault.All(wrong...)
}

// apart refuses a place of the backend's that lies in a directory that is read live: it would store itself.
func apart(d backup.Description, live []string) error {
	var wrong []error
	for _, path := range d.Local {
		for _, dir := range live {
			if within(path, dir) {
				wrong = append(wrong, fault.New(fault.BadArguments, "%s, which the backend %s uses, lies in %s, which is to be backed up", path, d.Name, dir).
					WithHint("name a place elsewhere"))
			}
		}
	}
	return fault.All(wrong...)
}

// within reports whether a directory is a root, or lies below it on the same file system.
func within(dir, root string) bool {
	var top, at unix.Stat_t
	if unix.Stat(root, &top) != nil {
		return false
	}
	for ; ; dir += "/.." {
		if unix.Stat(dir, &at) != nil || at.Dev != top.Dev {
			return false
		}
		if at.Ino == top.Ino {
			return true
		}
		if isTop(dir, at.Ino) {
			return false
		}
	}
}

// isTop reports whether there is nothing above a directory.
func isTop(dir string, ino uint64) bool {
	var above unix.Stat_t
	return unix.Stat(dir+"/..", &above) != nil || above.Ino == ino
}

// covered refuses paths that lie on a mount below a volume: the volume's snapshot is mounted over it for the backend.
func covered(paths []string, mounts []filesystem.Mount, roots []string) error {
	var wrong []error
	for _, path := range paths {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		for _, root := range roots {
			if strings.HasPrefix(m.Point, root+"/") && !slices.Contains(roots, m.Point) {
				wrong = append(wrong, fault.New(fault.BadArguments, "%s lies on what is mounted at %s, below %s: the backend sees the snapshot of %s there instead",
					path, m.Point, root, root).
					WithHint("mount it elsewhere, or leave one of the two out"))
			}
		}
	}
	return fault.All(wrong...)
}

// fstab lists what is to be mounted; tests have one of their own.
var fstab = "/etc/fstab"

// Mounted refuses a repository, and a directory to be read live, on a mount point at which nothing is mounted: backups
// would fill the disk below and be hidden by the next mount, and what is read there is not what was meant.
func Mounted(d backup.Description, live []string) error {
	entries, err := filesystem.Fstab(fstab)
	if err != nil {
		return err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	var wrong []error
	look := func(code fault.Code, path, what string) {
		point, missing, err := filesystem.Unmounted(entries, mounts, path)
		if missing {
			err = fault.New(code, "%s, %s: fstab mounts something at %s, and nothing is mounted there", path, what, point).
				WithHint("mount %s; or take its line out of %s", point, fstab)
		}
		wrong = append(wrong, err)
	}
	for _, path := range d.Local {
		look(fault.RepositoryMissing, path, "which the backend "+d.Name+" uses")
	}
	for _, path := range live {
		look(fault.NotFound, path, "to be read live")
	}
	return fault.All(wrong...)
}
