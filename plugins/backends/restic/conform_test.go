package restic_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/backup/backuptest"
	"go.pcc.com/rewind/plugins/backends/restic"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 { // started by the suite
		backuptest.Main(m, restic.New())
	}
	code := m.Run()
	_ = os.RemoveAll(restic.NotesDir)
	os.Exit(code)
}

func TestConformance(t *testing.T) {
	backuptest.Conform(t, func(t *testing.T) backuptest.Fixture {
		path := filepath.Join(t.TempDir(), "repository")
		newRepository(t, path)
		f := backuptest.Fixture{Backend: restic.New(), Config: config(t, path), Missing: config(t, path), Local: path}
		f.Unchanged, f.Page = backuptest.ByItself, "../../../docs/attributes.md"
		f.Missing.Options = maps.Clone(f.Missing.Options)
		f.Missing.Options["repository"] = path + "-missing"
		return f
	})
}
