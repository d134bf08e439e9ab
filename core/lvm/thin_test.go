package lvm_test

import (
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// What holds LVM's commands back is a lock file: where they look for another one, no pool is told anything.
func TestLVMMayLockElsewhere(t *testing.T) {
	for said, here := range map[string]bool{"/run/lock/lvm": true, "/run/lock/lvm/": true, "/srv/locks": false} {
		err := lvm.New(prints{stdout: "locking_dir=\"" + said + "\"\n"}).LocksHere(t.Context())
		if f := fault.Of(err); (err == nil) != here || !here && (f.Code != fault.Unsupported || f.Hint == "") {
			t.Errorf("%s: %v", said, err)
		}
	}
}
