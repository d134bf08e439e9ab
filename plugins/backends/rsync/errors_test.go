package rsync_test

import (
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
)

// Of an error that the kernel tells another program while rsync stores only those hear who have something open by then.
func TestWriteErrorsAreHeardFromTheBeginning(t *testing.T) {
	w := newWorld(t)
	begun, listens := false, true
	report := func(p backup.Progress) {
		if p.Label == "storing" {
			begun, listens = true, listens && backuptest.Opened(w.path())
		}
	}
	_, err := w.Store(t.Context(), w.config, w.tree, report)
	if err != nil || !begun || !listens {
		t.Errorf("while rsync stored (%v) %s was open: %v, %v", begun, w.path(), listens, err)
	}
	if backuptest.Opened(w.path()) {
		t.Error("it is open still")
	}
}
