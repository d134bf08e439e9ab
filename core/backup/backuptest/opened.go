package backuptest

import (
	"os"
	"path/filepath"
)

// Opened reports whether this process has a directory open.
func Opened(dir string) bool {
	const fds = "/proc/self/fd"
	entries, _ := os.ReadDir(fds)
	for _, e := range entries {
		if at, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && at == dir {
			return true
		}
	}
	return false
}
