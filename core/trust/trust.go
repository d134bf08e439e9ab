// Package trust says whether anybody but root could put something else in the place of a file that root runs or obeys.
package trust

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Error is a file or directory that others than root can change.
type Error struct {
	Path string
	// Owner is the number of the user that it belongs to, if that is the fault; else others may write to it.
	Owner uint32
	Mode  fs.FileMode
}

func (e *Error) Error() string {
	if e.Owner != 0 {
		return fmt.Sprintf("%s belongs to user %d, not to root", e.Path, e.Owner)
	}
	return fmt.Sprintf("%s may be written by others than root (mode %04o)", e.Path, e.Mode.Perm())
}

// Remedy is the command that ends it.
func (e *Error) Remedy() string {
	if e.Owner != 0 {
		return "chown root " + e.Path
	}
	return "chmod go-w " + e.Path
}

// File looks at one file or directory. It takes our own user for as good as root: whoever runs this could do by hand
// what the program does.
func File(path string, info fs.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() {
		return &Error{Path: path, Owner: owner}
	}
	if info.Mode().Perm()&0o022 != 0 {
		return &Error{Path: path, Mode: info.Mode()}
	}
	return nil
}

// Dir looks at a directory and all above it, on the path as it is written and as its symbolic links lead. Others may
// write to a directory above it that has the sticky bit, as /tmp: they cannot replace in it what is not theirs. What is
// not there yet is no fault: it will be root's. It returns an *Error, or what the file system says.
func Dir(dir string) error {
	for missing(dir) {
		dir = filepath.Dir(dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for _, path := range []string{real, dir} {
		for parent := path; ; parent = filepath.Dir(parent) {
			info, err := os.Stat(parent)
			if err != nil {
				return err
			}
			sticky := info.Mode()&fs.ModeSticky != 0 && parent != path
			if err := File(parent, info); err != nil && !sticky {
				return err
			}
			if parent == "/" {
				break
			}
		}
	}
	return nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}
