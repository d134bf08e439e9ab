package backuptest

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

// incompressible returns random data, which no backend can make smaller. It is always the same.
func incompressible(size int) string {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	return string(data)
}

// unreadableDir returns a directory that has only files which not even root can read. sysfs itself checks the mode of a
// file (kernel: fs/kernfs/file.c), and the directory of a driver without devices has only the files by which a device
// is bound to it.
func unreadableDir(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob("/sys/bus/*/drivers/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) > 0 && noneReadable(entries) {
			return dir
		}
	}
	t.Fatal("no driver below /sys/bus has only files that cannot be read")
	return ""
}

func noneReadable(entries []fs.DirEntry) bool {
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o444 != 0 {
			return false
		}
	}
	return true
}

// pathsFact returns the fact "paths" of a fault. It is a []string in process, and a []any after the wire.
func pathsFact(err error) []string {
	switch value := factsOf(err)["paths"].(type) {
	case []string:
		return value
	case []any:
		var all []string
		for _, element := range value {
			text, _ := element.(string) // anything but a string becomes ""
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
