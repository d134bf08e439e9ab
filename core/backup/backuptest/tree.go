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

// oddNames are names that are text to some and trouble to others.
var oddNames = []string{
	"-rf", "--", " two  spaces ", "new\nline", "tab\tand\rreturn", "*", "[a-z]?", `back\slash`, "quote'\"`$(true)", "...", "#", "%s%n",
	"ünï¢ödé", "not utf-8 \xff\xfe", "colon:at@host", strings.Repeat("n", 255),
}

// grow makes a tree that holds what trees hold, below dir.
func grow(t *testing.T, dir string, seed uint64) {
	t.Helper()
	g := grower{T: t, dir: dir, random: rand.NewChaCha8([32]byte{byte(seed)})}
	g.files()
	g.links()
	g.special()
	g.attributes()
	g.times()
}

type grower struct {
	*testing.T
	dir    string
	random *rand.ChaCha8
}

func (g grower) path(name string) string { return filepath.Join(g.dir, name) }

func (g grower) ok(err error) {
	g.Helper()
	if err != nil {
		g.Fatalf("grow a tree: %v", err)
	}
}

func (g grower) write(name string, size int) {
	g.Helper()
	data := make([]byte, size)
	_, err := g.random.Read(data)
	g.ok(err)
	g.ok(os.MkdirAll(filepath.Dir(g.path(name)), 0o755))
	g.ok(os.WriteFile(g.path(name), data, 0o644))
}

func (g grower) files() {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 3 << 20} {
		g.write(filepath.Join("sizes", strconv.Itoa(size)), size)
	}
	for _, name := range oddNames {
		g.write(filepath.Join("names", name), 5)
		g.ok(os.MkdirAll(g.path(filepath.Join("directories", name)), 0o755))
	}
	g.write(filepath.Join(strings.Repeat("deep/", 100), "file"), 10)
	g.ok(os.MkdirAll(g.path("empty/empty"), 0o755))
	g.sparse()
}

// sparse makes a file with data only in the middle of two holes, the second of which ends it.
func (g grower) sparse() {
	file, err := os.Create(g.path("sparse"))
	g.ok(err)
	defer file.Close()
	g.ok(file.Truncate(16 << 20))
	_, err = file.WriteAt(bytes.Repeat([]byte("data"), 1024), 8<<20)
	g.ok(err)
}

func (g grower) links() {
	g.write("links/first", 100)
	g.ok(os.Mkdir(g.path("links/other"), 0o755))
	g.ok(os.Link(g.path("links/first"), g.path("links/second")))
	g.ok(os.Link(g.path("links/first"), g.path("links/other/third")))
	for name, target := range map[string]string{
		"dangling": "nowhere", "absolute": "/etc/passwd", "out": "../../../../../../etc/passwd", "directory": "../sizes", "self": "self",
	} {
		g.ok(os.Symlink(target, g.path("links/"+name)))
	}
}

func (g grower) special() {
	g.ok(unix.Mkfifo(g.path("fifo"), 0o640))
	// A socket's path has 107 bytes at most, a test's directory more: it is bound by the directory's descriptor.
	fd, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	g.ok(err)
	defer unix.Close(fd)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join("/proc/self/fd", strconv.Itoa(fd), "socket"), Net: "unix"})
	g.ok(err)
	l.SetUnlinkOnClose(false)
	g.ok(l.Close())
}

func (g grower) attributes() {
	for name, mode := range map[string]uint32{"suid": 0o4755, "sgid": 0o2750, "shut": 0, "open": 0o666} {
		g.write("modes/"+name, 10)
		g.ok(unix.Lchown(g.path("modes/"+name), 1234, 4321))
		g.ok(unix.Chmod(g.path("modes/"+name), mode))
	}
	for name, mode := range map[string]uint32{"sticky": 0o1777, "shut": 0, "sgid": 0o2775} {
		g.ok(os.MkdirAll(g.path("modes/of/"+name), 0o755))
		g.ok(unix.Chmod(g.path("modes/of/"+name), mode))
	}
	g.ok(unix.Lchown(g.path("links/dangling"), 1234, 4321))
	for _, name := range []string{"modes/open", "empty/empty", "."} {
		g.ok(unix.Setxattr(g.path(name), "user.rewind", []byte("a\x00b\nc"), 0))
	}
	g.ok(unix.Setxattr(g.path("modes/open"), "system.posix_acl_access", acl(), 0))
	g.ok(unix.Setxattr(g.path("modes/of/sgid"), "system.posix_acl_default", acl(), 0))
}

// acl is an access control list with an entry for a user of its own, as the kernel keeps it (acl(5),
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

// times gives some files times with nanoseconds, directories last: what is made in one gives it a new time.
func (g grower) times() {
	early := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	late := time.Date(2037, 1, 1, 0, 0, 0, 1, time.UTC)
	for name, when := range map[string]time.Time{
		"sizes/0": early, "links/dangling": early, "fifo": late, "empty/empty": late, "empty": early, "names": late, ".": early,
	} {
		stamp, err := unix.TimeToTimespec(when)
		g.ok(err)
		g.ok(unix.UtimesNanoAt(unix.AT_FDCWD, g.path(name), []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
