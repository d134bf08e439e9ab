package rsync_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
	"go.pcc.com/rewind/plugins/backends/rsync"
)

func TestMain(m *testing.M) { backuptest.Main(m, rsync.New()) }

func TestConformance(t *testing.T) {
	backuptest.Conform(t, func(t *testing.T) backuptest.Fixture {
		path := t.TempDir()
		return backuptest.Fixture{
			Backend: rsync.New(),
			Config:  backup.Config{Options: map[string]any{"path": path}},
			Missing: backup.Config{Options: map[string]any{"path": filepath.Join(path, "missing")}},
			Local:   path, Machines: true, Unchanged: backuptest.ByRecord,
			Lose: func(id string) error {
				name, host, _ := strings.Cut(id, ".")
				return os.RemoveAll(filepath.Join(path, host, name))
			},
			Entry: func(id string) string {
				name, host, _ := strings.Cut(id, ".")
				return filepath.Join(path, host, name+".json")
			},
			Page: "../../../docs/attributes.md",
		}
	})
}
