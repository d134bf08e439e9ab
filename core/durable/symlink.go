package durable

import (
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
)

// Symlink creates a symbolic link at path that points to target, creates its directory if that is missing, and syncs
// both. If the same link exists already, Symlink does nothing. If path is anything else, Symlink leaves it alone and
// returns the fault exists.
func Symlink(path, target string) error {
	if existing, err := os.Readlink(path); err == nil && existing == target {
		return nil
	}
	if err := beforeChange(path); err != nil {
		return err
	}
	if err := MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(target, path); err != nil {
		if os.IsExist(err) {
			return fault.New(fault.Exists, "%s exists already and is not a link to %s", path, target)
		}
		return fault.New(fault.Internal, "link: %w", err)
	}
	return syncDir(filepath.Dir(path))
}
