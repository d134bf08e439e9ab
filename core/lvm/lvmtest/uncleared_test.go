package lvmtest_test

import (
	"errors"
	"testing"

	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// A table that a killed command prepared is made live by a resume. While it cannot be dropped, writes wait: what they
// would be written through need not be what LVM's metadata says.
func TestUnsuspendLeavesDeviceSuspendedWhosePreparedTableCannotBeDropped(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "a"}}})
	f.Suspend("vg/a", true)
	f.FailOn(errors.New("no such luck"), "device-mapper", "clear")
	volumes := map[string]string{"vg-a": "vg/a"}
	if err := f.LVM().Unsuspend(t.Context(), volumes); err == nil || !f.Suspended("vg/a") {
		t.Errorf("%v; suspended: %v", err, f.Suspended("vg/a"))
	}
	if err := f.LVM().Unsuspend(t.Context(), volumes); err != nil {
		t.Error(err)
	}
	if table, prepared := f.Mapped("vg/a"); table != "" || prepared || f.Suspended("vg/a") {
		t.Errorf("table %q, prepared %v", table, prepared)
	}
}
