package backup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
)

func TestRepositoryOfAnotherToolIsRefused(t *testing.T) {
	for want, c := range map[string]struct{ files, dirs []string }{
		"restic": {[]string{"config"}, []string{"data", "index", "keys", "locks", "snapshots"}},
		"Borg":   {[]string{"config", "README", "hints.5", "index.5", "integrity.5"}, []string{"data"}},
		"Kopia":  {[]string{"kopia.repository.f", "kopia.blobcfg.f"}, nil},
		"":       {[]string{"config"}, []string{"data", "keys"}}, // no repository: directories of hosts, and some file
	} {
		dir := t.TempDir()
		for _, name := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range c.dirs {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		err := backup.NotOfAnotherTool(dir)
		refused := err != nil && strings.Contains(err.Error(), "a repository of "+want)
		if want == "" && err != nil || want != "" && !refused {
			t.Errorf("%q: %v", want, err)
		}
	}
}
