package durable

import (
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
)

// Symlink makes path a symbolic link to target, with the directory for it, and syncs both. What is there already is
// left alone if it is that link, else it is an exists fault.
func Symlink(path, target string) error {
	if there, err := os.Readlink(path); err == nil && there == target {
		return nil
	}
	if err := MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(target, path); err != nil {
		if os.IsExist(err) {
			return fault.New(fault.Exists, "%s is there already and does not lead to %s", path, target)
		}
		return fault.New(fault.Internal, "link: %w", err)
	}
	return syncDir(filepath.Dir(path))
}
