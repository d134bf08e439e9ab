package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// host is a directory that stands for /proc, and files for what its processes have.
type host struct {
	t    *testing.T
	proc string
	root string
}

func newHost(t *testing.T) *host {
	t.Helper()
	return &host{t, t.TempDir(), t.TempDir()}
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// dir makes a directory below the root and returns its path.
func (h *host) dir(path string) string {
	h.t.Helper()
	path = filepath.Join(h.root, path)
	h.must(os.MkdirAll(path, 0o700))
	return path
}

// otherFileSystem mounts an empty file system on a new directory below the root.
func (h *host) otherFileSystem(path string) string {
	h.t.Helper()
	path = h.dir(path)
	h.must(unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"))
	h.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// dataDir makes a data directory.
func (h *host) dataDir(path, version string) string {
	h.t.Helper()
	data := h.dir(path)
	for _, name := range []string{"base", "global", "pg_tblspc"} {
		h.must(os.MkdirAll(filepath.Join(data, name), 0o700))
	}
	h.must(os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(version+"\n"), 0o600))
	return data
}

// process adds a process with the root directory of this host.
func (h *host) process(pid, parent int, comm, cwd, title string) {
	h.t.Helper()
	dir := filepath.Join(h.proc, fmt.Sprint(pid))
	h.must(os.MkdirAll(dir, 0o700))
	h.must(os.Symlink(cwd, filepath.Join(dir, "cwd")))
	h.must(os.Symlink(h.root, filepath.Join(dir, "root")))
	for name, text := range map[string]string{
		"comm": comm + "\n", "stat": fmt.Sprintf("%d (%s) S %d%s", pid, comm, parent, strings.Repeat(" 0", 48)),
		"cmdline": title + "\x00\x00", "cgroup": "0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n",
	} {
		h.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

func (h *host) running() []Cluster {
	h.t.Helper()
	clusters, err := running(h.proc)
	h.must(err)
	return clusters
}

// parts are the parts of a cluster, each as "what path", with paths below the root.
func (h *host) parts(c Cluster) []string {
	var parts []string
	for _, p := range c.Parts {
		parts = append(parts, p.What+" "+strings.TrimPrefix(p.Path, h.root))
	}
	return parts
}

func TestClusterIsFoundByItsProcesses(t *testing.T) {
	h := newHost(t)
	data := h.dataDir("/dat/15", "15")
	h.process(1, 0, "systemd", "/", "/sbin/init")
	h.process(700, 1, "postgres", data, "/usr/lib/postgresql/15/bin/postgres\x00-D\x00"+data)
	h.process(701, 700, "postgres", data, "postgres: 15/main: checkpointer ")
	h.process(702, 700, "postgres", data, "postgres: 15/main: archiver last was 000000010000000000000003")
	h.process(703, 700, "postgres", data, "postgres: 15/main: walsender repl 10.0.0.2(4711) streaming 0/3000148")
	h.process(800, 1, "bash", data, "-bash")
	h.process(801, 1, "postgres", "/", "postgres: no cluster, and no data directory")
	clusters := h.running()
	if len(clusters) != 1 {
		t.Fatalf("%+v", clusters)
	}
	c := clusters[0]
	if c.Data != data || c.Version != "15" || c.PID != 700 || c.Unit != "postgresql@15-main.service" || !c.Archives ||
		c.Standbys != 1 {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff([]string{"data /dat/15"}, h.parts(c)); diff != "" {
		t.Error(diff)
	}
}

func TestTitlesOfEachVersion(t *testing.T) {
	for title, want := range map[string]Cluster{
		"postgres: archiver process   last was 000000010000000000000001": {Archives: true}, // 9.6
		"postgres: archiver ": {Archives: true},
		"postgres: main: archiver failed on 000000010000000000000002":    {Archives: true},
		"postgres: wal sender process repl 10.0.0.2(4711) streaming 0/3": {Standbys: 1}, // 9.6
		"postgres: walsender pcc [local] streaming 0/3000148":            {Standbys: 1},
		"postgres: archiver pccdb 10.0.0.3(5000) idle":                   {}, // a user of that name
		"postgres: 15/main: pcc dat [local] SELECT":                      {},
		"postgres: logical replication launcher":                         {},
		"/usr/lib/postgresql/15/bin/postgres -D /dat":                    {},
	} {
		h := newHost(t)
		data := h.dataDir("/d", "15")
		h.process(700, 1, "postgres", data, "postgres")
		h.process(702, 700, "postgres", data, title)
		c := h.running()[0]
		if c.Archives != want.Archives || c.Standbys != want.Standbys {
			t.Errorf("%q: archives %v, %d standbys", title, c.Archives, c.Standbys)
		}
	}
}

// What an administrator has moved away is found behind symbolic links, absolute and relative, and behind mounts.
func TestPartsThatLieElsewhereAreFound(t *testing.T) {
	h := newHost(t)
	data := h.dataDir("/dat/15", "15")
	wal := h.otherFileSystem("/wal")
	space := h.otherFileSystem("/fast/space")
	h.otherFileSystem("/dat/15/pg_xact")
	same := h.dir("/dat/other")
	h.must(os.Mkdir(filepath.Join(wal, "15"), 0o700))
	h.must(os.Symlink("/wal/15", filepath.Join(data, "pg_wal"))) // as the cluster's processes see it: below their root
	h.must(os.Symlink("../../../fast/space", filepath.Join(data, "pg_tblspc/16385")))
	h.must(os.Symlink(strings.TrimPrefix(same, h.root), filepath.Join(data, "pg_tblspc/16386")))
	h.must(os.Symlink("/gone", filepath.Join(data, "pg_tblspc/16387")))
	h.process(700, 1, "postmaster", data, "/usr/bin/postmaster")
	c := h.running()[0]
	want := []string{"data /dat/15", "pg_wal /wal/15", "pg_xact /dat/15/pg_xact", "tablespace 16385 /fast/space"}
	if diff := cmp.Diff(want, h.parts(c)); diff != "" {
		t.Error(diff)
	}
	if c.Parts[1].Dev == c.Parts[0].Dev || c.Parts[1].Dev == c.Parts[3].Dev || space == wal {
		t.Errorf("devices: %+v", c.Parts)
	}
}

func TestSeveralClustersAreSorted(t *testing.T) {
	h := newHost(t)
	for i, name := range []string{"/b", "/a", "/c"} {
		h.process(700+10*i, 1, "postgres", h.dataDir(name, "17"), "postgres")
		h.process(701+10*i, 700+10*i, "postgres", h.root+name, "postgres: checkpointer ")
	}
	var found []string
	for _, c := range h.running() {
		found = append(found, strings.TrimPrefix(c.Data, h.root), c.Version)
	}
	if diff := cmp.Diff([]string{"/a", "17", "/b", "17", "/c", "17"}, found); diff != "" {
		t.Error(diff)
	}
}

// A process that ends while it is looked at is none of a cluster, and no fault.
func TestProcessThatEndsMeanwhile(t *testing.T) {
	h := newHost(t)
	h.process(700, 1, "postgres", filepath.Join(h.root, "gone"), "postgres")
	h.must(os.Mkdir(filepath.Join(h.proc, "701"), 0o700))
	if clusters := h.running(); len(clusters) != 0 {
		t.Errorf("%+v", clusters)
	}
}

// A data directory on a file server that does not answer ends the look, with the reason. A named pipe that nobody
// writes to stands for it.
func TestLookHasALimit(t *testing.T) {
	h := newHost(t)
	h.must(os.Mkdir(filepath.Join(h.proc, "700"), 0o700))
	pipe := filepath.Join(h.proc, "700", "comm")
	h.must(unix.Mkfifo(pipe, 0o600))
	t.Cleanup(func() { // lets the goroutine that waits go on
		if fd, err := unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			unix.Close(fd)
		}
	})
	if _, err := runningWithin(h.proc, 50*time.Millisecond); !errors.Is(err, fault.Timeout) {
		t.Error(err)
	}
}

// The links of a cluster in a container lead through its own root directory, one after the other.
func TestLinksAreFollowedInTheRootOfTheCluster(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "dat/15"), 0o755), os.MkdirAll(filepath.Join(root, "other"), 0o755),
		os.Symlink("/other", filepath.Join(root, "wal")), os.Symlink("/wal", filepath.Join(root, "dat/15/pg_wal")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(path string) int {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	part, err := openPart(open(root), open(filepath.Join(root, "dat/15")), "pg_wal")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(part)
	if got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", part)); got != filepath.Join(root, "other") {
		t.Errorf("pg_wal lies in %s: %v", got, err)
	}
}
