package snapset

import (
	"fmt"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// CheckName refuses a set name that LVM would not allow in a tag or at the end of a volume's name (lvm(8), "Valid
// names"). Fault: bad_arguments.
func CheckName(name string) error {
	hint := "use letters, digits, and . _ + - (not first), at most 64 characters, such as before-upgrade"
	why := ""
	switch {
	case name == "":
		why = "it is empty"
	case len(name) > maxName:
		why = fmt.Sprintf("it has %d characters", len(name))
	case name[0] == '-' || name[0] == '.':
		why = "of its first character"
	}
	if why != "" {
		return fault.New(fault.BadArguments, "%q is no name for a set, because %s", name, why).WithHint("%s", hint)
	}
	if err := lvm.CheckNew("vg", SnapshotName("lv", name)); err != nil {
		return fault.New(fault.BadArguments, "%q is no name for a set: its snapshot of lv would be %v", name, err).
			WithHint("%s", hint)
	}
	return nil
}

// maxName is the greatest length of a set's name. It leaves room for the volume's own name: a snapshot's name consists
// of both and may have 127 characters.
const maxName = 64

// SnapshotName returns the name of the snapshot of volume lv in set.
func SnapshotName(lv, set string) string { return lv + "_" + set }
