package lvm_test

import (
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// A lock file keeps LVM's commands waiting. If LVM uses other lock files, thin pools must not be changed.
func TestLocksHereRejectsAnotherDirectory(t *testing.T) {
	for lockingDir, ok := range map[string]bool{"/run/lock/lvm": true, "/run/lock/lvm/": true, "/srv/locks": false} {
		err := lvm.New(fixedOutput{stdout: "locking_dir=\"" + lockingDir + "\"\n"}).CheckLockDir(t.Context())
		if f := fault.Of(err); (err == nil) != ok || !ok && (f.Code != fault.Unsupported || f.Hint == "") {
			t.Errorf("%s: %v", lockingDir, err)
		}
	}
}
