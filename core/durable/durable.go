// Package durable writes files that survive a power cut: after a power cut a
// file has either its old or its whole new content, and what was reported as
// written is there.
//
// A rename is durable only when its directory is synced (fsync(2), NOTES), which
// renameio leaves to its caller.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// WriteFile replaces the file at path by data. perm is taken as it is, without
// the umask.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return Install(path, bytes.NewReader(data), perm)
}

// Install replaces the file at path by what src yields. A program that runs from
// path goes on with the old file. On an error path is what it was, and the
// error names it.
func Install(path string, src io.Reader, perm os.FileMode) error {
	if err := install(path, src, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func install(path string, src io.Reader, perm os.FileMode) error {
	dir := filepath.Dir(path)
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	defer file.Cleanup() // does nothing once the file is in place
	if _, err := io.Copy(file, src); err != nil {
		return err
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDir(dir)
}

// Remove removes the file at path. An absent one is no error.
func Remove(path string) error {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Also an absent one: an earlier removal may not have been synced.
	err = syncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MkdirAll makes the directory at path and those above it that are missing, each
// with perm less the umask. A directory that exists keeps its permissions.
func MkdirAll(path string, perm os.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
