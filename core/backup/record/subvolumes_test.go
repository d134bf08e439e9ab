package record

import (
	"testing"

	"golang.org/x/sys/unix"
)

// No backend descends into a subvolume: its device number is another one, and yet it is no mount.
func TestSubvolumeIsADeviceThatIsNoMount(t *testing.T) {
	t.Parallel()
	const root = unix.STATX_ATTR_MOUNT_ROOT
	parent := unix.Statx_t{Dev_minor: 40, Attributes_mask: root}
	for name, tt := range map[string]struct {
		dir  unix.Statx_t
		want bool
	}{
		"a directory":                 {unix.Statx_t{Dev_minor: 40, Attributes_mask: root}, false},
		"a subvolume":                 {unix.Statx_t{Dev_minor: 41, Attributes_mask: root}, true},
		"a mount":                     {unix.Statx_t{Dev_minor: 41, Attributes_mask: root, Attributes: root}, false},
		"a kernel that does not say":  {unix.Statx_t{Dev_minor: 41}, false},
		"a bind mount of a directory": {unix.Statx_t{Dev_minor: 40, Attributes_mask: root, Attributes: root}, false},
		"another major device number": {unix.Statx_t{Dev_major: 1, Dev_minor: 40, Attributes_mask: root}, true},
	} {
		if got := isSubvolume(&parent, &tt.dir); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
