package lvm

import (
	"errors"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// The texts are what LVM 2.03.16 and 2.03.31 printed when something on the host itself was in their way. The fault's
// message must be the line that names the cause, never the lines after it, which say what LVM did then.
func TestExplainReportsCauseNotConsequence(t *testing.T) {
	for _, tt := range []struct {
		cause, consequence string
		code               fault.Code
		hint               string
	}{
		{
			"Volume vg00/p_s is not active locally (volume_list activation filter?).",
			"Aborting. Failed to wipe snapshot exception store.", fault.Unsupported, "activation/volume_list",
		},
		{
			"/etc/lvm/archive/.lvm_lab_6270_91569747: write error failed: No space left on device", "",
			fault.Unwritable, "/etc/lvm/archive",
		},
		{"Cannot archive volume group metadata for vg00 to read-only filesystem.", "", fault.Unwritable, "mount it writable"},
		{"/proc/nosuch: mkdir failed: No such file or directory", "", fault.Unwritable, "lvm.conf"},
		{"File locking initialisation failed.", "", fault.Unwritable, "/run/lock/lvm"},
		{
			"Global lock failed: check that lvmlockd is running.", "", fault.Locked, "lvmlockd(8)",
		},
		{"Cannot update volume group vg00 with duplicate PV devices.", "", fault.Unsupported, "devices/filter"},
		{
			"device-mapper: create ioctl on vg00-p_s-cow LVM-xcua-cow failed: Device or resource busy",
			"Failed to suspend logical volume vg00/pccehr.\n  Aborting. Manual intervention required.",
			fault.Exists, "dmsetup remove",
		},
		{
			"Operation prohibited while --readonly is set.", "Can't get lock for vg00.\n  Cannot process volume group vg00",
			fault.Unsupported, "locking_type",
		},
		{
			"/dev/vg00/p_s: not found: device not cleared", "Aborting. Failed to wipe snapshot exception store.",
			fault.CommandFailed, "systemd-udevd",
		},
		{"Volume group \"vg00\" not found", "Cannot process volume group vg00", fault.NotFound, "devices/filter"},
		{"Something that nobody has seen.", "Aborting.", fault.CommandFailed, ""},
	} {
		stderr := "  WARNING: lvmlockd process is not running.\n  " + tt.cause + "\n  " + tt.consequence + "\n"
		failed := &command.Error{Argv: []string{"lvm", "lvcreate"}, Code: 5, Stderr: stderr, Err: errors.New("exit status 5")}
		f := fault.Of(explain(failed))
		if f.Code != tt.code || !strings.Contains(f.Msg, tt.cause) || !strings.Contains(f.Hint, tt.hint) {
			t.Errorf("%q:\n%s: %s (%s)", tt.cause, f.Code, f.Msg, f.Hint)
		}
		if tt.consequence != "" && strings.Contains(f.Msg, strings.TrimSpace(tt.consequence)) {
			t.Errorf("%q: the message has the consequence: %s", tt.cause, f.Msg)
		}
	}
}
