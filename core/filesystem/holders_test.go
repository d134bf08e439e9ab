package filesystem

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.pcc.com/rewind/core/fault"
)

var dat = Dev{253, 0}

// fakeSystem is a /proc and a /sys made of files, with the answers of stat(2) for their links.
type fakeSystem struct {
	t         *testing.T
	scan      *scan
	fileDevs  map[string]Dev // by path or link: the device that holds the file
	nodeDevs  map[string]Dev // by path or link: the number of the block device that the file is
	statPaths []string
}

func newFakeSystem(t *testing.T) *fakeSystem {
	t.Helper()
	sys := &fakeSystem{t: t, fileDevs: map[string]Dev{}, nodeDevs: map[string]Dev{}}
	root := t.TempDir()
	mounts := mountsFrom(t, table)
	own, _ := At(mounts, "/dat")
	sys.scan = &scan{
		proc: Proc(filepath.Join(root, "proc")), sys: filepath.Join(root, "sys"), self: 1,
		devs: []Dev{dat}, ownMounts: []Mount{own}, mounts: mounts, etab: filepath.Join(root, "etab"),
		loopFile:    func(string) (on, node Dev, ok bool) { return on, node, false },
		unreadBytes: func(int, int) int { return 0 },
		stat: func(path string) (Dev, Dev, error) {
			sys.statPaths = append(sys.statPaths, path)
			on, known := sys.fileDevs[path]
			node, isNode := sys.nodeDevs[path]
			if !known && !isNode {
				return Dev{}, Dev{}, fs.ErrNotExist
			}
			return on, node, nil
		},
	}
	sys.addProcess(1, "host", nil)
	return sys
}

func (sys *fakeSystem) writeFile(path, text string) {
	sys.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		sys.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		sys.t.Fatal(err)
	}
}

func (sys *fakeSystem) symlink(target, path string) {
	sys.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		sys.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		sys.t.Fatal(err)
	}
}

// addProcess adds a process with links such as "cwd" and "fd/3", and returns its directory in /proc.
func (sys *fakeSystem) addProcess(pid int, namespace string, links map[string]string) string {
	sys.t.Helper()
	dir := sys.scan.proc.path(pid, "")
	sys.symlink("mnt:["+namespace+"]", filepath.Join(dir, "ns/mnt"))
	sys.symlink("/usr/bin/prog", filepath.Join(dir, "exe"))
	sys.writeFile(filepath.Join(dir, "comm"), "prog"+strconv.Itoa(pid)+"\n")
	sys.writeFile(filepath.Join(dir, "cgroup"), "0::/system.slice/prog.service\n")
	for name, target := range links {
		sys.symlink(target, filepath.Join(dir, name))
	}
	return dir
}

func (sys *fakeSystem) find() []Holder {
	sys.t.Helper()
	found, err := sys.scan.runWithin(sys.t.Context())
	if err != nil {
		sys.t.Fatal(err)
	}
	return found
}

// bind is the bind mount of /dat/pg in the mount table, which is not among the caller's own mounts.
var bind = Holder{Kind: "mount", How: "bind", Path: "/srv/my data", Dev: dat}

func (sys *fakeSystem) expect(want ...Holder) {
	sys.t.Helper()
	want = append(want, bind)
	less := func(a, b Holder) bool { return fmt.Sprint(a) < fmt.Sprint(b) }
	if diff := cmp.Diff(want, sys.find(), cmpopts.SortSlices(less)); diff != "" {
		sys.t.Error(diff)
	}
}

func TestHoldersOfEachKindOfProcess(t *testing.T) {
	for how, link := range map[string]string{"cwd": "cwd", "root": "root", "fd": "fd/7"} {
		sys := newFakeSystem(t)
		dir := sys.addProcess(812, "host", map[string]string{link: "/dat/pg (deleted)"})
		sys.fileDevs[filepath.Join(dir, link)] = dat
		sys.expect(Holder{
			Kind: "process", How: how, Path: "/dat/pg (deleted)", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
		})
	}
}

func TestHolderByItsProgram(t *testing.T) {
	sys := newFakeSystem(t)
	dir := sys.addProcess(812, "host", nil)
	sys.fileDevs[filepath.Join(dir, "exe")] = dat
	sys.expect(Holder{
		Kind: "process", How: "exe", Path: "/usr/bin/prog", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
	})
}

func TestHolderByAMappedFile(t *testing.T) {
	sys := newFakeSystem(t)
	dir := sys.addProcess(812, "host", nil)
	sys.writeFile(filepath.Join(dir, "maps"),
		"7f0000000000-7f0000001000 r--p 00000000 fe:01 99                         /usr/lib/libc.so\n"+
			`7f0000001000-7f0000002000 r-xp 00000000 fd:00 131                        /dat/lib a.so (deleted)
7f0000002000-7f0000003000 r--p 00001000 fd:00 131                        /dat/lib a.so (deleted)
7f0000003000-7f0000004000 r--p 00000000 00:00 0                          fd:00 
`)
	sys.expect(Holder{
		Kind: "process", How: "map", Path: "/dat/lib a.so (deleted)",
		PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
	})
}

func TestHolderIsNamedOnceForEachDevice(t *testing.T) {
	sys := newFakeSystem(t)
	other := Dev{253, 3}
	sys.scan.devs = append(sys.scan.devs, other)
	sys.scan.ownMounts = sys.scan.mounts
	dir := sys.addProcess(812, "host", map[string]string{
		"cwd": "/dat", "fd/1": "/dat/a", "fd/2": "/dat/b", "fd/3": "/pccehr/c",
	})
	for link, dev := range map[string]Dev{"cwd": dat, "fd/1": dat, "fd/2": dat, "fd/3": other} {
		sys.fileDevs[filepath.Join(dir, link)] = dev
	}
	process := Holder{Kind: "process", PID: 812, Command: "prog812", Unit: "prog.service"}
	first, second := process, process
	first.How, first.Path, first.Dev, first.More = "cwd", "/dat", dat, 2
	second.How, second.Path, second.Dev = "fd", "/pccehr/c", other
	less := func(a, b Holder) bool { return a.Path < b.Path }
	if diff := cmp.Diff([]Holder{first, second}, sys.find(), cmpopts.SortSlices(less)); diff != "" {
		t.Error(diff)
	}
}

func TestHolderOfTheDeviceItself(t *testing.T) {
	sys := newFakeSystem(t)
	dir := sys.addProcess(812, "host", map[string]string{"fd/3": "/dev/dm-0"})
	sys.nodeDevs[filepath.Join(dir, "fd/3")] = dat
	sys.expect(Holder{
		Kind: "process", How: "device", Path: "/dev/dm-0", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
	})
}

// A kernel thread has no program and holds nothing. A process whose first thread has ended shows what it holds only
// through its other threads.
func TestHoldersAmongThreads(t *testing.T) {
	sys := newFakeSystem(t)
	kernelThread := sys.scan.proc.path(2, "")
	sys.symlink("mnt:[host]", filepath.Join(kernelThread, "ns/mnt"))
	sys.symlink("/", filepath.Join(kernelThread, "cwd"))
	sys.fileDevs[filepath.Join(kernelThread, "cwd")] = dat // as if / were on it
	sys.writeFile(filepath.Join(kernelThread, "task/2/comm"), "kworker")

	half := sys.addProcess(900, "host", map[string]string{"task/901/fd/3": "/dat/x"})
	if err := os.Remove(filepath.Join(half, "exe")); err != nil {
		t.Fatal(err)
	}
	sys.writeFile(filepath.Join(half, "task/900/comm"), "dead")
	sys.fileDevs[filepath.Join(half, "task/901/fd/3")] = dat
	sys.expect(Holder{
		Kind: "process", How: "fd", Path: "/dat/x", PID: 900, Command: "prog900", Unit: "prog.service", Dev: dat,
	})
}

// Files on network file systems are not examined, because the search must not wait for a file server that is not
// reachable.
func TestHoldersNeverAskAFileServer(t *testing.T) {
	sys := newFakeSystem(t)
	nfs := Mount{ID: 60, Parent: 22, Dev: Dev{0, 60}, Root: "/", Point: "/net", Type: "nfs4"}
	sys.scan.mounts = append(sys.scan.mounts, nfs)
	sys.addProcess(812, "host", map[string]string{"fd/3": "/net/file", "fd/4": "socket:[5]", "fd/5": "/memfd:x (deleted)"})
	sys.find()
	for _, path := range sys.statPaths {
		if filepath.Base(path) != "exe" {
			t.Errorf("asked %s", path)
		}
	}
}

func TestSwapAndLoop(t *testing.T) {
	sys := newFakeSystem(t)
	sys.writeFile(string(sys.scan.proc)+"/swaps", "Filename\tType\tSize\tUsed\tPriority\n"+
		`/dat/swap\040file                      file		1048572		0		-2`+"\n"+
		"/dev/dm-0                               partition	1048572		0		-3\n")
	sys.fileDevs["/dat/swap file"] = dat
	sys.nodeDevs["/dev/dm-0"] = dat
	sys.writeFile(sys.scan.sys+"/block/loop4/loop/backing_file", "/dat/image\n")
	sys.fileDevs["/dat/image"] = dat
	sys.writeFile(sys.scan.sys+"/block/loop5/loop/backing_file", "/dat/gone (deleted)\n") // stat(2) fails
	sys.writeFile(sys.scan.sys+"/block/loop6/loop/backing_file", "/elsewhere\n")
	sys.fileDevs["/elsewhere"] = Dev{254, 1}
	sys.expect(
		Holder{Kind: "swap", How: "swap", Path: "/dat/swap file", Dev: dat},
		Holder{Kind: "swap", How: "swap", Path: "/dev/dm-0", Dev: dat},
		Holder{Kind: "loop", How: "loop", Path: "/dev/loop4", Dev: dat},
		Holder{Kind: "loop", How: "loop", Path: "/dev/loop5", Dev: dat},
	)
}

func TestHolderStackedOnTheDevice(t *testing.T) {
	sys := newFakeSystem(t)
	sys.writeFile(sys.scan.sys+"/dev/block/253:0/dev", "253:0\n")
	crypt := filepath.Join(sys.scan.sys, "dev/block/253:0/holders/dm-9")
	sys.writeFile(crypt+"/dev", "253:9\n")
	sys.writeFile(crypt+"/dm/name", "secret\n")
	sys.writeFile(crypt+"/dm/uuid", "CRYPT-LUKS2-abc-secret\n")
	sys.expect(Holder{Kind: "device", How: "crypt", Path: "/dev/mapper/secret", Dev: dat})

	sys.scan.devs = append(sys.scan.devs, Dev{253, 9}) // the caller closes this device itself
	sys.scan.found = nil
	sys.expect()
}

func TestOverlayHoldsItsLayers(t *testing.T) {
	sys := newFakeSystem(t)
	sys.scan.mounts = append(sys.scan.mounts, Mount{
		ID: 70, Parent: 22, Dev: Dev{0, 70}, Root: "/", Point: "/merged", Type: "overlay",
		Super: "rw,lowerdir=/usr:/dat/lower,upperdir=/x,workdir=/y",
	})
	sys.expect(Holder{Kind: "mount", How: "overlay", Path: "/merged", Dev: dat})
}

// The /dat that a unit with PrivateTmp= sees goes away with the host's mount. The /dat that a program under unshare -m
// sees stays.
func TestMountsInOtherNamespaces(t *testing.T) {
	follows := `100 99 254:1 / / rw master:1 - ext4 /dev/vda1 rw
101 100 253:0 / /dat rw master:20 - xfs /dev/mapper/vg00-dat rw
`
	// A slave of a slave: the peer group of its master is in the namespace called middle.
	middle := `200 99 254:1 / / rw shared:70 master:1 - ext4 /dev/vda1 rw
201 200 253:0 / /dat rw shared:71 master:20 - xfs /dev/mapper/vg00-dat rw
`
	deep := `300 99 254:1 / / rw master:70 - ext4 /dev/vda1 rw
301 300 253:0 / /dat rw master:71 - xfs /dev/mapper/vg00-dat rw
`
	for _, c := range []struct {
		name   string
		tables map[int]string
		want   []string // the mount points that hold /dat open
	}{
		{"a slave", map[int]string{10: follows}, nil},
		{"a slave with the bind mount", map[int]string{
			10: follows + "103 100 253:0 /pg /srv/my\\040data rw master:20 - xfs x rw\n",
		}, nil},
		{"a slave's slave", map[int]string{10: middle, 11: deep}, nil},
		{"private", map[int]string{10: `100 99 254:1 / / rw - ext4 /dev/vda1 rw
101 100 253:0 / /dat rw - xfs /dev/mapper/vg00-dat rw
`}, []string{"/dat"}},
		{"mounted elsewhere in that namespace", map[int]string{10: `100 99 254:1 / / rw master:1 - ext4 /dev/vda1 rw
101 100 253:0 / /inside rw master:20 - xfs /dev/mapper/vg00-dat rw
`}, []string{"/inside"}},
		{"a mount of its own on top", map[int]string{
			10: follows + "102 101 0:44 / /dat/x rw - tmpfs none rw\n",
		}, []string{"/dat"}},
		{"bind-mounted over itself", map[int]string{
			10: follows + "102 101 253:0 / /dat ro master:20 - xfs /dev/mapper/vg00-dat rw\n",
		}, []string{"/dat", "/dat"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sys := newFakeSystem(t)
			sys.scan.ownMounts = sys.scan.mounts // the bind mount is the caller's own, too
			for pid, text := range c.tables {
				dir := sys.addProcess(pid, "ns"+strconv.Itoa(pid), nil)
				sys.writeFile(filepath.Join(dir, "mountinfo"), text)
			}
			var points []string
			for _, h := range sys.find() {
				if h.Kind != "mount" || h.PID != 10 || h.Namespace != "mnt:[ns10]" || h.Unit != "prog.service" {
					t.Errorf("unexpected %+v", h)
				}
				points = append(points, h.Path)
			}
			if diff := cmp.Diff(c.want, points); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHoldersEndWithTheirContext(t *testing.T) {
	sys := newFakeSystem(t)
	dir := sys.addProcess(812, "host", map[string]string{"cwd": "/dat"})
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	stat := sys.scan.stat
	ctx, cancel := context.WithCancel(t.Context())
	sys.scan.stat = func(path string) (Dev, Dev, error) {
		if path == filepath.Join(dir, "cwd") {
			cancel()
			<-hang // as for a file server that does not answer
		}
		return stat(path)
	}
	if _, err := sys.scan.runWithin(ctx); fault.Of(err).Code != fault.Interrupted {
		t.Errorf("got %v", err)
	}
}

// Holders can read the real /proc to its end.
func TestHoldersOnThisMachine(t *testing.T) {
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	proc, _, err := statDev("/proc")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Holders(t.Context(), []Dev{proc}, On(mounts, proc))
	if os.Geteuid() == 0 && err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 && fault.Of(err).Code != fault.NotRoot {
		t.Errorf("without root: %v", err)
	}
}

func TestUnitOf(t *testing.T) {
	const machine = "0::/machine.slice/systemd-nspawn@web.service/payload/system.slice/postgresql.service\n"
	for cgroups, want := range map[string]string{
		"0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n":           "postgresql@15-main.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                                "session-3.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/postgresql.service\n": "user@1000.service",
		"12:cpu:/x.service\n1:name=systemd:/system.slice/a\\x2db.service/child\n0::/\n":   "a\\x2db.service",
		"0::/system.slice/_cgroup.service\n":                                              "cgroup.service",
		machine:                                                                           "systemd-nspawn@web.service",
		"0::/\n":                                                                          "",
		"":                                                                                "",
		"garbage":                                                                         "",
		"0::/a.slice/b.socketx":                                                           "",
	} {
		if got := unitOf(cgroups); got != want {
			t.Errorf("%q: %q, want %q", cgroups, got, want)
		}
	}
}

func FuzzUnitOf(f *testing.F) {
	f.Add("0::/system.slice/a.service/b.scope\n1:name=systemd:/x\n")
	f.Fuzz(func(t *testing.T, cgroups string) {
		unit := unitOf(cgroups)
		if unit != "" && filepath.Ext(unit) != ".service" && filepath.Ext(unit) != ".scope" {
			t.Errorf("%q gave %q", cgroups, unit)
		}
	})
}

func FuzzMaps(f *testing.F) {
	f.Add([]byte("7f00-7f01 r-xp 00000000 fd:00 131    /dat/lib a.so\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if path, ok := mappedPath(line, []byte(" fd:00 ")); !ok && path != "" {
			t.Errorf("%q gave %q", line, path)
		}
	})
}

func FuzzPropagation(f *testing.F) {
	f.Add("shared:1 master:2 propagate_from:3 unbindable")
	f.Fuzz(func(t *testing.T, optional string) {
		if shared, master := propagation(optional); shared < 0 || master < 0 {
			t.Errorf("%q gave %d, %d", optional, shared, master)
		}
	})
}

func FuzzOverlayLayers(f *testing.F) {
	f.Add("rw,lowerdir=/a:/b,upperdir=/c,workdir=/d")
	f.Fuzz(func(_ *testing.T, options string) { overlayLayers(options) })
}

func TestReceivesFromEndsIfMastersFormACircle(t *testing.T) {
	masters := map[int]int{5: 6, 6: 5}
	if receivesFrom(Mount{Optional: "master:5"}, Mount{Optional: "shared:1"}, masters) {
		t.Error("it receives from a peer group that is not among its masters")
	}
}
