package backuptest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oddNames are names of files that a backend may misinterpret.
var oddNames = []string{
	"-rf", "--", " two  spaces ", "new\nline", "tab\tand\rreturn", "*", "[a-z]?", `back\slash`, "quote'\"`$(true)",
	"...", "#", "%s%n", "ünï¢ödé", "not utf-8 \xff\xfe", "colon:at@host", strings.Repeat("n", 255),
}

// makeTree makes a tree below dir with files of all kinds and with all attributes that every backend must keep. Its
// files have random content, which depends on seed.
func makeTree(t *testing.T, dir string, seed uint64) {
	t.Helper()
	g := treeMaker{T: t, dir: dir, random: rand.NewChaCha8([32]byte{byte(seed)})}
	g.makeFiles()
	g.makeLinks()
	g.makeSpecialFiles()
	g.setAttributes()
	g.setTimes()
}

type treeMaker struct {
	*testing.T
	dir    string
	random *rand.ChaCha8
}

func (g treeMaker) path(name string) string { return filepath.Join(g.dir, name) }

func (g treeMaker) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatalf("make a tree: %v", err)
	}
}

func (g treeMaker) writeFile(name string, size int) {
	g.Helper()
	data := make([]byte, size)
	_, err := g.random.Read(data)
	g.must(err)
	g.must(os.MkdirAll(filepath.Dir(g.path(name)), 0o755))
	g.must(os.WriteFile(g.path(name), data, 0o644))
}

func (g treeMaker) makeFiles() {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 3 << 20} {
		g.writeFile(filepath.Join("sizes", strconv.Itoa(size)), size)
	}
	for _, name := range oddNames {
		g.writeFile(filepath.Join("names", name), 5)
		g.must(os.MkdirAll(g.path(filepath.Join("directories", name)), 0o755))
	}
	g.writeFile(filepath.Join(strings.Repeat("deep/", 100), "file"), 10)
	g.must(os.MkdirAll(g.path("empty/empty"), 0o755))
	g.makeSparseFile()
}

// makeSparseFile makes a file that consists of a hole, some data and another hole.
func (g treeMaker) makeSparseFile() {
	file, err := os.Create(g.path("sparse"))
	g.must(err)
	defer file.Close()
	g.must(file.Truncate(16 << 20))
	_, err = file.WriteAt(bytes.Repeat([]byte("data"), 1024), 8<<20)
	g.must(err)
}

func (g treeMaker) makeLinks() {
	g.writeFile("links/first", 100)
	g.must(os.Mkdir(g.path("links/other"), 0o755))
	g.must(os.Link(g.path("links/first"), g.path("links/second")))
	g.must(os.Link(g.path("links/first"), g.path("links/other/third")))
	for name, target := range map[string]string{
		"dangling": "nowhere", "absolute": "/etc/passwd", "out": "../../../../../../etc/passwd", "directory": "../sizes",
		"self": "self",
	} {
		g.must(os.Symlink(target, g.path("links/"+name)))
	}
}

func (g treeMaker) makeSpecialFiles() {
	g.must(unix.Mkfifo(g.path("fifo"), 0o640))
	// The path of a socket has at most 107 bytes, and that of a test's directory is longer. So the socket is bound by a
	// path through the descriptor of the directory.
	fd, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	g.must(err)
	defer unix.Close(fd)
	socket := filepath.Join("/proc/self/fd", strconv.Itoa(fd), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	g.must(err)
	l.SetUnlinkOnClose(false)
	g.must(l.Close())
}

func (g treeMaker) setAttributes() {
	for name, mode := range map[string]uint32{"suid": 0o4755, "sgid": 0o2750, "shut": 0, "open": 0o666} {
		g.writeFile("modes/"+name, 10)
		g.must(unix.Lchown(g.path("modes/"+name), 1234, 4321))
		g.must(unix.Chmod(g.path("modes/"+name), mode))
	}
	for name, mode := range map[string]uint32{"sticky": 0o1777, "shut": 0, "sgid": 0o2775} {
		g.must(os.MkdirAll(g.path("modes/of/"+name), 0o755))
		g.must(unix.Chmod(g.path("modes/of/"+name), mode))
	}
	g.must(unix.Lchown(g.path("links/dangling"), 1234, 4321))
	for _, name := range []string{"modes/open", "empty/empty", "."} {
		g.must(unix.Setxattr(g.path(name), "user.rewind", []byte("a\x00b\nc"), 0))
	}
	g.must(unix.Setxattr(g.path("modes/open"), "system.posix_acl_access", acl(), 0))
	g.must(unix.Setxattr(g.path("modes/of/sgid"), "system.posix_acl_default", acl(), 0))
}

// acl returns the extended attribute of an access control list with an entry for a named user (acl(5),
// include/uapi/linux/posix_acl_xattr.h).
func acl() []byte {
	const none = 0xffffffff
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, none}, {2, 4, 1234}, {4, 4, none}, {0x10, 6, none}, {0x20, 4, none}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}

// setTimes gives some files and directories times with nanoseconds. It is called last, because making a file changes
// the time of its directory.
func (g treeMaker) setTimes() {
	early := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	late := time.Date(2037, 1, 1, 0, 0, 0, 1, time.UTC)
	for name, when := range map[string]time.Time{
		"sizes/0": early, "links/dangling": early, "fifo": late, "empty/empty": late, "empty": early, "names": late,
		".": early,
	} {
		stamp, err := unix.TimeToTimespec(when)
		g.must(err)
		g.must(unix.UtimesNanoAt(unix.AT_FDCWD, g.path(name), []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
