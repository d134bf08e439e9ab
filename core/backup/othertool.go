package backup

import (
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/ansible"
)

// NotOfAnotherTool refuses a local directory that is the repository of another backup tool. That tool would take the
// trees of a backup among its files for damage, and its own cleaning could remove them. Fault: bad_arguments.
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
		if hasAll(dir, t.files, fs.FileMode.IsRegular) && hasAll(dir, t.dirs, fs.FileMode.IsDir) {
			return ansible.Bad("path", "%s is a repository of %s", dir, t.tool).WithHint("%s", t.hint)
		}
	}
	return nil
}

// hasAll reports whether dir has a file of this kind under each of the names.
func hasAll(dir string, names []string, isKind func(fs.FileMode) bool) bool {
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !isKind(info.Mode()) {
			return false
		}
	}
	return true
}
