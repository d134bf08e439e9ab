package backuptest

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

// noise is text that no backend can make smaller.
func noise(size int) string {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	return string(data)
}

// writeOnly returns a directory that holds only files which nobody can read, whoever asks: sysfs looks at the mode
// itself (kernel: fs/kernfs/file.c), and a driver without devices has but the files by which one is bound to it.
func writeOnly(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob("/sys/bus/*/drivers/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) > 0 && allShut(entries) {
			return dir
		}
	}
	t.Fatal("no driver below /sys/bus has only files that cannot be read")
	return ""
}

func allShut(entries []fs.DirEntry) bool {
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o444 != 0 {
			return false
		}
	}
	return true
}

// paths is the fact that names files, as it is in process or as it came over the wire.
func paths(err error) []string {
	switch list := factsOf(err)["paths"].(type) {
	case []string:
		return list
	case []any:
		var all []string
		for _, one := range list {
			text, _ := one.(string) // what is no text names nothing
			all = append(all, text)
		}
		return all
	}
	return nil
}

func factsOf(err error) map[string]any {
	if err == nil {
		return nil
	}
	return fault.Of(err).Facts
}
