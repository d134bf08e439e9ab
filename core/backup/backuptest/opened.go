package backuptest

import (
	"os"
	"path/filepath"
)

// Opened reports whether this process has a descriptor of the directory dir. dir has no symbolic links.
func Opened(dir string) bool {
	const fds = "/proc/self/fd"
	entries, _ := os.ReadDir(fds)
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && target == dir {
			return true
		}
	}
	return false
}
