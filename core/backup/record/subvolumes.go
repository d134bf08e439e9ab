package record

import "golang.org/x/sys/unix"

// isSubvolume reports whether a directory is a subvolume of its parent's file system. A kernel before 5.8 does not say
// whether a directory is the root of a mount; there it is taken for one.
func isSubvolume(parent, dir *unix.Statx_t) bool {
	isNoMount := dir.Attributes_mask&^dir.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	return isOtherDevice(parent, dir) && isNoMount
}

func isOtherDevice(parent, dir *unix.Statx_t) bool {
	return dir.Dev_major != parent.Dev_major || dir.Dev_minor != parent.Dev_minor
}
