// Package trust finds out whether any other user than root could change or replace a file that root runs or whose
// content root relies on.
package trust

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Error says that other users than root can change a file or directory.
type Error struct {
	Path string
	// Owner is the id of the file's owner if the owner is the reason. If it is 0, the reason is Mode.
	Owner uint32
	Mode  fs.FileMode // lets the group or others write
}

// Error says which file it is, and the reason.
func (e *Error) Error() string {
	if e.Owner != 0 {
		return fmt.Sprintf("%s belongs to user %d, not to root", e.Path, e.Owner)
	}
	return fmt.Sprintf("%s may be written by others than root (mode %04o)", e.Path, e.Mode.Perm())
}

// Remedy returns the shell command that mends it.
func (e *Error) Remedy() string {
	if e.Owner != 0 {
		return "chown root " + e.Path
	}
	return "chmod go-w " + e.Path
}

// File returns an *Error if other users can change this one file or directory. info must be that of path. The user of
// this process is trusted like root, because that user could do by hand whatever the program does.
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

// Dir returns an *Error if other users can change the directory or one above it. It checks the path as it is written,
// and the path after all symbolic links are resolved. Any other error is one of the file system.
//
// A directory above dir that everybody can write to is accepted if it has the sticky bit, like /tmp: other users cannot
// replace files in it that are not theirs. If dir does not exist yet, the nearest existing directory above it is
// checked in its place, because root will create what is missing.
func Dir(dir string) error {
	dir, err := filepath.Abs(dir) // the directory above "." is "." again
	if err != nil {
		return err
	}
	for isMissing(dir) {
		dir = filepath.Dir(dir)
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for _, path := range []string{resolved, dir} {
		for parent := path; ; parent = filepath.Dir(parent) {
			info, err := os.Stat(parent)
			if err != nil {
				return err
			}
			isStickyParent := info.Mode()&fs.ModeSticky != 0 && parent != path
			if err := File(parent, info); err != nil && !isStickyParent {
				return err
			}
			if parent == "/" {
				break
			}
		}
	}
	return nil
}

// isMissing reports whether nothing is at path. A symbolic link that leads nowhere is not missing.
func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}
