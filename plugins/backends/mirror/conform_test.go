package mirror

import (
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
)

func TestMain(m *testing.M) { backuptest.Main(m, New()) }

func TestConformance(t *testing.T) {
	backuptest.Conform(t, func(t *testing.T) backuptest.Fixture {
		path := t.TempDir()
		at := func(path string) backup.Config { return backup.Config{Options: map[string]any{"path": path}} }
		return backuptest.Fixture{
			Backend: New(), Config: at(path), Missing: at(filepath.Join(path, "missing")), Local: path, Machines: true,
			Lose:      func(id string) error { return os.RemoveAll(filepath.Join(path, "host-a", id)) },
			Entry:     func(id string) string { return filepath.Join(path, "host-a", id+".json") },
			Unchanged: backuptest.ByRecord, Page: "../../../docs/attributes.md",
		}
	})
}
