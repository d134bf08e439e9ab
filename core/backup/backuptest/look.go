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

// entry is all that a backup has to keep of a file.
type entry struct {
	Mode     string // type and permissions
	UID, GID uint32
	Modified int64 // nanoseconds since 1970
	Size     int64 // of regular files
	Content  string
	Target   string // of symbolic links
	Device   uint64
	Xattrs   map[string]string
	Linked   []string // the other names of the file, below the same root
}

// look reads a tree with nothing but system calls, so that it shares no mistake with a backend. Sockets are left out,
// and what lies below the directories named in without, relative to root.
func look(t *testing.T, root string, without ...string) map[string]entry {
	t.Helper()
	seen := make(map[string]entry)
	links := make(map[string][]string)
	inode := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(without, func(w string) bool { return name == w || strings.HasPrefix(name, w+"/") }) {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %q: %w", path, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		e, err := examine(path, &st)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		seen[name] = e
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
			inode[name] = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
			links[inode[name]] = append(links[inode[name]], name)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("look at %s: %v", root, err)
	}
	for name, id := range inode {
		e := seen[name]
		for _, other := range links[id] {
			if other != name {
				e.Linked = append(e.Linked, other)
			}
		}
		seen[name] = e
	}
	return seen
}

func examine(path string, st *unix.Stat_t) (entry, error) {
	e := entry{Mode: fmt.Sprintf("%06o", st.Mode), UID: st.Uid, GID: st.Gid, Modified: st.Mtim.Nano()}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
		e.Content, err = sum(path)
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

func sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

// direct fails the test if a file reads otherwise with O_DIRECT, at odd offsets and lengths.
func direct(t *testing.T, root string) {
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
			t.Errorf("%s read with O_DIRECT has %d bytes (%v), or others than its %d", path, len(got)+1, err, len(want))
		}
		return nil
	})
	if err != nil {
		t.Errorf("read %s with O_DIRECT: %v", root, err)
	}
}

// xattrs reads those that a backup keeps. A label of SELinux is the system's own.
func xattrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) { // restic's file system says so of a FIFO
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
