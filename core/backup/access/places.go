package access

import (
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// RefusePlaceOnMember refuses a backend with a place on a volume of the set, because what is written there would fill
// the set's snapshots. members has the names of the volumes, by the device of their file system. Fault: bad_arguments.
func RefusePlaceOnMember(d backup.Description, mounts []filesystem.Mount, members map[filesystem.Dev]string) error {
	return RefuseOnMember(d.Local, mounts, members, func(path string, _ filesystem.Mount, volume string) error {
		const msg = "%s, which the backend %s uses, lies on %s, which is one of the volumes"
		return fault.New(fault.BadArguments, msg, path, d.Name, volume).WithHint("name a place on another volume")
	})
}

// RefuseOnMember returns, for the paths that lie on a volume of the set, the faults that refuse makes of the path, the
// mount and the volume's name.
func RefuseOnMember(paths []string, mounts []filesystem.Mount, members map[filesystem.Dev]string,
	refuse func(path string, m filesystem.Mount, volume string) error) error {
	var errs []error
	for _, path := range paths {
		m, err := filesystem.Holding(mounts, path)
		if err != nil {
			return err
		}
		if volume, ok := memberBelow(m.Dev, members); ok {
			errs = append(errs, refuse(path, m, volume))
		}
	}
	return fault.All(errs...)
}

// memberBelow returns the volume of the set on which a file system lies: directly, or in a file on the volume, through
// a loop device.
func memberBelow(dev filesystem.Dev, members map[filesystem.Dev]string) (volume string, ok bool) {
	if volume, ok := members[dev]; ok {
		return volume, true
	}
	stack, _ := filesystem.Stack(sysfs, dev) // a file system without a device, such as NFS, has none
	var below []filesystem.Dev
	for _, layer := range stack {
		below = append(below, layer.Dev)
	}
	for _, loop := range filesystem.Loops(stack, loopFile) {
		below = append(below, loop.On, loop.Node)
	}
	for _, dev := range below {
		if volume, ok := members[dev]; ok {
			return volume, true
		}
	}
	return "", false
}

// sysfs is where sysfs is mounted, and loopFile is filesystem.LoopFile. Tests replace them.
var sysfs, loopFile = "/sys", filesystem.LoopFile

// fstab is the path of fstab(5), which tests replace.
var fstab = "/etc/fstab"

// RefuseUnmounted refuses a place of the backend, and a directory to be read live, below a mount point of fstab at
// which nothing is mounted. Otherwise backups would fill the file system below and be hidden by the next mount, and the
// wrong directory would be backed up. For places entries with noauto count, too: a disk for backups is often mounted on
// request. For live directories they do not: the directory may be what is to be backed up as long as nothing is mounted
// there. Faults: repository_missing for a place, not_found for a live directory.
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
	check := func(entries []filesystem.FstabEntry, code fault.Code, path, what string) {
		point, missing, err := filesystem.Unmounted(entries, mounts, path)
		if missing {
			err = fault.New(code, "%s, %s: fstab mounts something at %s, and nothing is mounted there", path, what, point).
				WithHint("mount %s; or take its line out of %s", point, fstab)
		}
		errs = append(errs, err)
	}
	for _, path := range d.Local {
		check(entries, fault.RepositoryMissing, path, "which the backend "+d.Name+" uses")
	}
	for _, path := range live {
		check(filesystem.MountedAtBoot(entries), fault.NotFound, path, "to be read live")
	}
	return fault.All(errs...)
}
