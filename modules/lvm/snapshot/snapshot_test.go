package snapshot

import (
	"strings"
	"testing"

	"go.pcc.com/rewind/core/snapset"
)

// With any other state nothing is mounted, so a mount point is refused: whoever gives one expects a mount there.
func TestMountArgumentsNeedStateMounted(t *testing.T) {
	for state, refused := range map[string]bool{
		snapset.Present: true, snapset.Absent: true, snapset.Unmounted: true, snapset.Mounted: false,
	} {
		for name, a := range map[string]args{"mountpoint": {Mountpoint: "/mnt"}, "options": {Options: "noexec"}} {
			a.Name, a.State, a.FreezeTimeout = "snap", state, 60
			err := validate(a)
			if refused != (err != nil && strings.Contains(err.Error(), name+": goes with state=mounted")) {
				t.Errorf("%s with state=%s: %v", name, state, err)
			}
		}
	}
}
