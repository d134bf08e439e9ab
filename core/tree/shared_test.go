package tree_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/tree"
)

// must fails the test if one of the errors is not nil.
func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// write writes a file, and makes the directories above it.
func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644))
}

// randomBytes returns n bytes, none of whose blocks is all zeros. The same seed gives the same bytes.
func randomBytes(seed, n int) []byte {
	data := make([]byte, 0, n+32)
	for i := 0; len(data) < n; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(seed)<<32+uint64(i)))
		data = append(data, sum[:]...)
	}
	return data[:n]
}

// setMtime sets the mtime of the entry at path, which may be a symbolic link itself.
func setMtime(t testing.TB, path string, sec, nsec int64) {
	t.Helper()
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: nsec}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
}

// emptyTrees makes two empty directories and returns their paths.
func emptyTrees(t *testing.T) (from, to string) {
	t.Helper()
	from, to = filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	must(t, os.Mkdir(from, 0o755), os.Mkdir(to, 0o755))
	return from, to
}

// equalTrees makes two equal trees with the given files.
func equalTrees(t *testing.T, files map[string][]byte) (from, to string) {
	t.Helper()
	from, to = emptyTrees(t)
	for name, data := range files {
		write(t, filepath.Join(from, name), data)
	}
	syncAndVerify(t, from, to, tree.Options{})
	return from, to
}

// syncAndVerify makes the trees equal and checks that they are: by an independent program, by what stat shows, and by a
// second run that finds nothing to do.
func syncAndVerify(t *testing.T, from, to string, opts tree.Options) tree.Done {
	t.Helper()
	done, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	assertEqual(t, from, to)
	again, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	if !again.Same() {
		t.Errorf("a second run did something: %+v", again)
	}
	return done
}

func assertEqual(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXnci", "--delete", from+"/", to+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("rsync: %v, and finds what differs:\n%s", err, out)
	}
	if diff := cmp.Diff(describe(t, from), describe(t, to)); diff != "" {
		t.Error("not equal:\n" + diff)
	}
}

// describe returns for every entry of a tree, including the root, all that must be the same in an equal tree.
func describe(t *testing.T, top string) map[string]string {
	t.Helper()
	entries, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		size := st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			size = 0 // the file system's own
		} else if _, met := first[st.Ino]; !met {
			first[st.Ino] = rel
		}
		entries[rel] = fmt.Sprintf("mode %o owner %d:%d device %x size %d time %d.%09d links to %q attributes %s content %s",
			st.Mode, st.Uid, st.Gid, st.Rdev, size, st.Mtim.Sec, st.Mtim.Nsec, first[st.Ino], attributes(t, path),
			content(t, path, st.Mode))
		return nil
	})
	must(t, err)
	return entries
}

func content(t *testing.T, path string, mode uint32) string {
	t.Helper()
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		must(t, err)
		return target
	case unix.S_IFREG:
		file, err := os.Open(path)
		must(t, err)
		defer file.Close()
		sum := sha256.New()
		_, err = io.Copy(sum, file)
		must(t, err)
		return fmt.Sprintf("%x", sum.Sum(nil))
	}
	return ""
}

func attributes(t *testing.T, path string) string {
	t.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	must(t, err)
	var all []string
	for _, name := range strings.Split(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		all = append(all, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// posixACL returns the attribute value of a POSIX ACL: owner rw, user 7 r, group none, mask r, others none.
func posixACL() []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, 1<<32 - 1}, {2, 4, 7}, {4, 0, 1<<32 - 1}, {0x10, 4, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capability is the attribute value of the capability to bind low ports (linux/capability.h: VFS_CAP_REVISION_2).
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// fillWithEveryKind makes an entry of every kind, with every kind of metadata and with difficult names.
func fillWithEveryKind(t *testing.T, top string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(top, name) }
	write(t, at("a/program"), randomBytes(1, 9000))
	must(t, os.Chown(at("a/program"), 11, 12), unix.Setxattr(at("a/program"), "security.capability", capability, 0),
		os.Chmod(at("a/program"), 0o6755|fs.ModeSetuid|fs.ModeSetgid))
	write(t, at("a/shared"), []byte("acl"))
	must(t, unix.Setxattr(at("a/shared"), "system.posix_acl_access", posixACL(), 0),
		unix.Setxattr(at("a"), "system.posix_acl_default", posixACL(), 0),
		unix.Setxattr(at("a/shared"), "user.empty", nil, 0),
		unix.Setxattr(at("a/shared"), "user.note", []byte("x\x00y"), 0))
	write(t, at("a/empty"), nil)
	write(t, at("new\nline"), []byte("n"))
	write(t, at("bad\xff\xfeutf"), []byte("b"))
	write(t, at(" blank *?[\\'\""), []byte("c"))
	write(t, at("-rf"), []byte("d"))
	write(t, at(strings.Repeat("x", 255)), []byte("long"))
	must(t, os.Mkdir(at("nothing"), 0o700), os.Chmod(at("nothing"), 0o1777|fs.ModeSticky), os.Mkdir(at("closed"), 0))
	must(t, os.Symlink("../../../etc/passwd", at("out")), os.Symlink("/etc", at("absolute")),
		os.Symlink(strings.Repeat("y", 4000), at("dangling")),
		os.Lchown(at("out"), 5, 6), unix.Lsetxattr(at("out"), "trusted.link", []byte("1"), 0))
	setMtime(t, at("out"), 1, 999999999)
	write(t, at("b/one"), randomBytes(2, 5000))
	must(t, os.MkdirAll(at("0/deep"), 0o755), os.Link(at("b/one"), at("0/deep/two")), os.Link(at("b/one"), at("three")),
		os.Link(at("absolute"), at("b/absolute")))
	must(t, unix.Mkfifo(at("fifo"), 0o640), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
	setMtime(t, at("null"), 5, 6)
	writeSparse(t, at("sparse"), 5<<20, map[int64][]byte{1 << 20: randomBytes(3, 8192), 5<<20 - 5: []byte("end!!")})
	setMtime(t, at("b/one"), 946684800, 123456789)
	setMtime(t, at("0"), -1, 5) // before 1970
	setMtime(t, at("a"), 1700000000, 1)
	setMtime(t, top, 1600000000, 42)
}

// writeSparse makes a file of a size in bytes that has data only at the given offsets, and holes elsewhere.
func writeSparse(t testing.TB, path string, size int64, data map[int64][]byte) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for at, b := range data {
		_, err := f.WriteAt(b, at)
		must(t, err)
	}
}

// allocated returns how much of its file system a file takes, in bytes.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}
