// Package durable writes files that survive a power cut. After a power cut a file has either its old or its whole new
// content. It has the new content if the function that wrote it had returned nil.
//
// A rename is durable only when the directory is synced too (fsync(2), NOTES). The library renameio leaves that to its
// caller.
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

// WriteFile replaces the content of the file at path by data, or creates the file. Its permissions are exactly perm:
// the umask does not count.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return Install(path, bytes.NewReader(data), perm)
}

// Install replaces the file at path by a new file with the content of src, or creates it. The umask does not count for
// perm. A program that runs from path goes on with the old file. On an error the old file stays in place, and the error
// names path.
func Install(path string, src io.Reader, perm os.FileMode) error {
	if err := install(path, src, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func install(path string, src io.Reader, perm os.FileMode) error {
	if err := beforeChange(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	defer file.Cleanup() // does nothing after the replacement
	if _, err := io.Copy(file, src); err != nil {
		return err
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDir(dir)
}

// Remove removes the file at path. If there is none, that is no error.
func Remove(path string) error {
	if err := beforeChange(path); err != nil {
		return err
	}
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The directory is synced even if there was no file, because an earlier removal may not have been synced.
	err = syncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MkdirAll creates the directory at path and all missing ones above it, each with perm minus the umask, and syncs their
// parents. A directory that exists keeps its permissions.
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

// syncDir makes durable which files the directory at path holds.
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
