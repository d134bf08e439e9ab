package backuptest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// entry is everything that a backup must keep of a file.
type entry struct {
	Mode     string // type and permissions
	UID, GID uint32
	Modified int64  // nanoseconds since 1970
	Size     int64  // of regular files
	Content  string // SHA-256 of regular files
	Target   string // of symbolic links
	Device   uint64
	Xattrs   map[string]string
	Linked   []string // the other names of the file, below the same root
}

// readTree reads a tree with system calls only, so that it does not share a mistake with a backend. It leaves out
// sockets, and the directories excluded, whose paths are relative to root.
func readTree(t *testing.T, root string, excluded ...string) map[string]entry {
	t.Helper()
	entries := make(map[string]entry)
	names := make(map[string][]string)
	inodes := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(excluded, func(w string) bool { return name == w || strings.HasPrefix(name, w+"/") }) {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %q: %w", path, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		e, err := readEntry(path, &st)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		entries[name] = e
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
			inodes[name] = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
			names[inodes[name]] = append(names[inodes[name]], name)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("look at %s: %v", root, err)
	}
	for name, id := range inodes {
		e := entries[name]
		for _, other := range names[id] {
			if other != name {
				e.Linked = append(e.Linked, other)
			}
		}
		entries[name] = e
	}
	return entries
}

// readEntry reads what belongs in the entry of one file.
func readEntry(path string, st *unix.Stat_t) (entry, error) {
	e := entry{Mode: fmt.Sprintf("%06o", st.Mode), UID: st.Uid, GID: st.Gid, Modified: st.Mtim.Nano()}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
		e.Content, err = hashFile(path)
	case unix.S_IFLNK:
		e.Target, err = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Device = uint64(st.Rdev)
	}
	if err != nil {
		return e, err
	}
	e.Xattrs, err = xattrs(path)
	return e, err
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

// checkDirectReads fails the test if a file below root, read with O_DIRECT at odd offsets and lengths, has another
// content.
func checkDirectReads(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		got, err := io.ReadAll(io.NewSectionReader(f, 1, 1<<40))
		if err != nil || !bytes.Equal(got, want[min(1, len(want)):]) {
			t.Errorf("%s read with O_DIRECT has other content: %d of %d bytes, %v", path, len(got)+1, len(want), err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("read %s with O_DIRECT: %v", root, err)
	}
}

// xattrs reads the extended attributes that a backup keeps. It leaves out the label of SELinux, which the system sets.
func xattrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) { // restic's FUSE file system returns that for a FIFO
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("llistxattr", err)
	}
	found := make(map[string]string)
	for _, name := range bytes.Split(names[:n], []byte{0}) {
		if len(name) == 0 || string(name) == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, os.NewSyscallError("lgetxattr", err)
		}
		found[string(name)] = fmt.Sprintf("%q", value[:n])
	}
	return found, nil
}
