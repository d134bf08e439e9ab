package record

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// subvolumes are the subvolumes of btrfs below the roots. Each has a device number of its own and is no mount: every
// backend takes it for another file system and leaves it out, and no mount table shows it.
type subvolumes struct {
	first []string // at most mostNamed
	count int
}

// mostNamed is how many subvolumes a warning names.
const mostNamed = 10

func (s *subvolumes) add(path string) {
	if s.count++; s.count <= mostNamed {
		s.first = append(s.first, path)
	}
}

// warning says that the subvolumes are not in the backup. It is empty if there is none.
func (s *subvolumes) warning() []string {
	if s.count == 0 {
		return nil
	}
	text := strings.Join(s.first, ", ")
	if others := s.count - len(s.first); others > 0 {
		text += fmt.Sprintf(" and %d more", others)
	}
	return []string{"subvolumes of btrfs below what is backed up, and not in the backup: " + text +
		"; what is to be in it must be one of the volumes"}
}

// isSubvolume reports whether a directory is a subvolume of its parent's file system. A kernel before 5.8 does not say
// whether a directory is the root of a mount; there it is taken for one.
func isSubvolume(parent, dir *unix.Statx_t) bool {
	isNoMount := dir.Attributes_mask&^dir.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	return isOtherDevice(parent, dir) && isNoMount
}

func isOtherDevice(parent, dir *unix.Statx_t) bool {
	return dir.Dev_major != parent.Dev_major || dir.Dev_minor != parent.Dev_minor
}
