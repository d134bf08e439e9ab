package mirror

import (
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
)

// Of an error that the kernel tells another program while files are stored only those hear who have something open by
// then.
func TestWriteErrorsAreHeardFromTheBeginning(t *testing.T) {
	d := newDesk(t)
	d.write("file", "content")
	dir, begun, listens := filepath.Join(d.path, "web"), false, true
	report := func(p backup.Progress) {
		if p.Label == d.root {
			begun, listens = true, listens && backuptest.Opened(dir)
		}
	}
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Now(), Roots: []string{d.root}}
	_, err := New().Store(t.Context(), d.config, tree, report)
	if err != nil || !begun || !listens {
		t.Errorf("while it stored (%v) %s was open: %v, %v", begun, dir, listens, err)
	}
	if backuptest.Opened(dir) {
		t.Error("it is open still")
	}
}
