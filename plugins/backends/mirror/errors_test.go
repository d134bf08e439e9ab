package mirror

import (
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
)

// The kernel reports a write error to syncfs(2) only on descriptors that were open when the error occurred. So the
// host's directory must be open from the first write on.
func TestHostDirectoryIsOpenDuringStore(t *testing.T) {
	fx := newFixture(t)
	fx.write("file", "content")
	dir, begun, opened := filepath.Join(fx.path, "web"), false, true
	report := func(p backup.Progress) {
		if p.Label == fx.root {
			begun, opened = true, opened && backuptest.Opened(dir)
		}
	}
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Now(), Roots: []string{fx.root}}
	_, err := New().Store(t.Context(), fx.config, tree, report)
	if err != nil || !begun || !opened {
		t.Errorf("while it stored (%v) %s was open: %v, %v", begun, dir, opened, err)
	}
	if backuptest.Opened(dir) {
		t.Error("it is still open")
	}
}
