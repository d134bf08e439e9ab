package backup

import (
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/ansible"
)

// NotOfAnotherTool refuses (bad_arguments) a local directory that is the repository of another backup tool: trees among
// its files would be taken for damage by that tool, and its own cleaning could remove them.
func NotOfAnotherTool(dir string) error {
	for _, t := range []struct {
		tool        string
		files, dirs []string
		hint        string
	}{
		{"restic", []string{"config"}, []string{"data", "index", "keys", "snapshots"},
			"with backend=restic it is backend_options=repository=" + dir + "; otherwise name another directory"},
		{"Borg", []string{"config", "README"}, []string{"data"}, "name another directory"},
		{"Kopia", []string{"kopia.repository.f"}, nil, "name another directory"},
	} {
		if holds(dir, t.files, fs.FileMode.IsRegular) && holds(dir, t.dirs, fs.FileMode.IsDir) {
			return ansible.Bad("path", "%s is a repository of %s", dir, t.tool).WithHint("%s", t.hint)
		}
	}
	return nil
}

func holds(dir string, names []string, kind func(fs.FileMode) bool) bool {
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !kind(info.Mode()) {
			return false
		}
	}
	return true
}
