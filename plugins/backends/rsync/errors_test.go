package rsync_test

import (
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
)

// The kernel reports a write error to syncfs(2) only on descriptors that were open when the error occurred. So the
// place must be open before rsync begins to write.
func TestPlaceIsOpenDuringStore(t *testing.T) {
	fx := newFixture(t)
	begun, opened := false, true
	report := func(p backup.Progress) {
		if p.Label == "storing" {
			begun, opened = true, opened && backuptest.Opened(fx.path())
		}
	}
	_, err := fx.Store(t.Context(), fx.config, fx.tree, report)
	if err != nil || !begun || !opened {
		t.Errorf("while rsync stored (%v) %s was open: %v, %v", begun, fx.path(), opened, err)
	}
	if backuptest.Opened(fx.path()) {
		t.Error("it is still open")
	}
}
