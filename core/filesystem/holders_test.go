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

// world is a /proc and a /sys made of files, and what stat says of the links.
type world struct {
	t     *testing.T
	scan  *scan
	where map[string]Dev // file behind a link or path: the device it is on
	nodes map[string]Dev // the device it is
	asked []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, where: map[string]Dev{}, nodes: map[string]Dev{}}
	root := t.TempDir()
	mounts := mountsFrom(t, table)
	own, _ := At(mounts, "/dat")
	w.scan = &scan{
		proc: Proc(filepath.Join(root, "proc")), sys: filepath.Join(root, "sys"), self: 1,
		devs: []Dev{dat}, own: []Mount{own}, mounts: mounts, etab: filepath.Join(root, "etab"),
		loopOf: func(string) (on, is Dev, ok bool) { return on, is, false }, unread: func(int, int) int { return 0 },
		stat: func(path string) (Dev, Dev, error) {
			w.asked = append(w.asked, path)
			on, known := w.where[path]
			is, node := w.nodes[path]
			if !known && !node {
				return Dev{}, Dev{}, fs.ErrNotExist
			}
			return on, is, nil
		},
	}
	w.process(1, "host", nil)
	return w
}

func (w *world) file(path, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) link(target, path string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		w.t.Fatal(err)
	}
}

// process makes a process with links such as "cwd" and "fd/3".
func (w *world) process(pid int, namespace string, links map[string]string) string {
	w.t.Helper()
	dir := w.scan.proc.path(pid, "")
	w.link("mnt:["+namespace+"]", filepath.Join(dir, "ns/mnt"))
	w.link("/usr/bin/prog", filepath.Join(dir, "exe"))
	w.file(filepath.Join(dir, "comm"), "prog"+strconv.Itoa(pid)+"\n")
	w.file(filepath.Join(dir, "cgroup"), "0::/system.slice/prog.service\n")
	for name, target := range links {
		w.link(target, filepath.Join(dir, name))
	}
	return dir
}

func (w *world) find() []Holder {
	w.t.Helper()
	found, err := w.scan.within(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// The bind mount of /dat/pg that the table has, unknown to the caller.
var bind = Holder{Kind: "mount", How: "bind", Path: "/srv/my data", Dev: dat}

func (w *world) expect(want ...Holder) {
	w.t.Helper()
	want = append(want, bind)
	less := func(a, b Holder) bool { return fmt.Sprint(a) < fmt.Sprint(b) }
	if diff := cmp.Diff(want, w.find(), cmpopts.SortSlices(less)); diff != "" {
		w.t.Error(diff)
	}
}

func TestHoldersOfEachKindOfProcess(t *testing.T) {
	for how, link := range map[string]string{"cwd": "cwd", "root": "root", "fd": "fd/7"} {
		w := newWorld(t)
		dir := w.process(812, "host", map[string]string{link: "/dat/pg (deleted)"})
		w.where[filepath.Join(dir, link)] = dat
		w.expect(Holder{
			Kind: "process", How: how, Path: "/dat/pg (deleted)", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
		})
	}
}

func TestHolderByItsProgram(t *testing.T) {
	w := newWorld(t)
	dir := w.process(812, "host", nil)
	w.where[filepath.Join(dir, "exe")] = dat
	w.expect(Holder{Kind: "process", How: "exe", Path: "/usr/bin/prog", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat})
}

func TestHolderByAMappedFile(t *testing.T) {
	w := newWorld(t)
	dir := w.process(812, "host", nil)
	w.file(filepath.Join(dir, "maps"), `7f0000000000-7f0000001000 r--p 00000000 fe:01 99                         /usr/lib/libc.so
7f0000001000-7f0000002000 r-xp 00000000 fd:00 131                        /dat/lib a.so (deleted)
7f0000002000-7f0000003000 r--p 00001000 fd:00 131                        /dat/lib a.so (deleted)
7f0000003000-7f0000004000 r--p 00000000 00:00 0                          fd:00 
`)
	w.expect(Holder{
		Kind: "process", How: "map", Path: "/dat/lib a.so (deleted)", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
	})
}

func TestHolderIsNamedOnceForEachDevice(t *testing.T) {
	w := newWorld(t)
	other := Dev{253, 3}
	w.scan.devs = append(w.scan.devs, other)
	w.scan.own = w.scan.mounts
	dir := w.process(812, "host", map[string]string{"cwd": "/dat", "fd/1": "/dat/a", "fd/2": "/dat/b", "fd/3": "/pccehr/c"})
	for link, dev := range map[string]Dev{"cwd": dat, "fd/1": dat, "fd/2": dat, "fd/3": other} {
		w.where[filepath.Join(dir, link)] = dev
	}
	process := Holder{Kind: "process", PID: 812, Command: "prog812", Unit: "prog.service"}
	first, second := process, process
	first.How, first.Path, first.Dev, first.More = "cwd", "/dat", dat, 2
	second.How, second.Path, second.Dev = "fd", "/pccehr/c", other
	less := func(a, b Holder) bool { return a.Path < b.Path }
	if diff := cmp.Diff([]Holder{first, second}, w.find(), cmpopts.SortSlices(less)); diff != "" {
		t.Error(diff)
	}
}

func TestHolderOfTheDeviceItself(t *testing.T) {
	w := newWorld(t)
	dir := w.process(812, "host", map[string]string{"fd/3": "/dev/dm-0"})
	w.nodes[filepath.Join(dir, "fd/3")] = dat
	w.expect(Holder{Kind: "process", How: "device", Path: "/dev/dm-0", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat})
}

// A kernel thread has no program. A process whose first thread has ended shows
// what it holds by the others.
func TestHoldersAmongThreads(t *testing.T) {
	w := newWorld(t)
	kernelThread := w.scan.proc.path(2, "")
	w.link("mnt:[host]", filepath.Join(kernelThread, "ns/mnt"))
	w.link("/", filepath.Join(kernelThread, "cwd"))
	w.where[filepath.Join(kernelThread, "cwd")] = dat // as if / were on it
	w.file(filepath.Join(kernelThread, "task/2/comm"), "kworker")

	half := w.process(900, "host", map[string]string{"task/901/fd/3": "/dat/x"})
	if err := os.Remove(filepath.Join(half, "exe")); err != nil {
		t.Fatal(err)
	}
	w.file(filepath.Join(half, "task/900/comm"), "dead")
	w.where[filepath.Join(half, "task/901/fd/3")] = dat
	w.expect(Holder{Kind: "process", How: "fd", Path: "/dat/x", PID: 900, Command: "prog900", Unit: "prog.service", Dev: dat})
}

// Whoever looks for holders must not wait for a file server that is away, so
// files there are not asked.
func TestHoldersNeverAskAFileServer(t *testing.T) {
	w := newWorld(t)
	w.scan.mounts = append(w.scan.mounts, Mount{ID: 60, Parent: 22, Dev: Dev{0, 60}, Root: "/", Point: "/net", Type: "nfs4"})
	w.process(812, "host", map[string]string{"fd/3": "/net/file", "fd/4": "socket:[5]", "fd/5": "/memfd:x (deleted)"})
	w.find()
	for _, path := range w.asked {
		if filepath.Base(path) != "exe" {
			t.Errorf("asked %s", path)
		}
	}
}

func TestSwapAndLoop(t *testing.T) {
	w := newWorld(t)
	w.file(string(w.scan.proc)+"/swaps", "Filename\tType\tSize\tUsed\tPriority\n"+
		`/dat/swap\040file                      file		1048572		0		-2`+"\n"+
		"/dev/dm-0                               partition	1048572		0		-3\n")
	w.where["/dat/swap file"] = dat
	w.nodes["/dev/dm-0"] = dat
	w.file(w.scan.sys+"/block/loop4/loop/backing_file", "/dat/image\n")
	w.where["/dat/image"] = dat
	w.file(w.scan.sys+"/block/loop5/loop/backing_file", "/dat/gone (deleted)\n") // stat finds nothing
	w.file(w.scan.sys+"/block/loop6/loop/backing_file", "/elsewhere\n")
	w.where["/elsewhere"] = Dev{254, 1}
	w.expect(
		Holder{Kind: "swap", How: "swap", Path: "/dat/swap file", Dev: dat},
		Holder{Kind: "swap", How: "swap", Path: "/dev/dm-0", Dev: dat},
		Holder{Kind: "loop", How: "loop", Path: "/dev/loop4", Dev: dat},
		Holder{Kind: "loop", How: "loop", Path: "/dev/loop5", Dev: dat},
	)
}

func TestHolderStackedOnTheDevice(t *testing.T) {
	w := newWorld(t)
	w.file(w.scan.sys+"/dev/block/253:0/dev", "253:0\n")
	crypt := filepath.Join(w.scan.sys, "dev/block/253:0/holders/dm-9")
	w.file(crypt+"/dev", "253:9\n")
	w.file(crypt+"/dm/name", "secret\n")
	w.file(crypt+"/dm/uuid", "CRYPT-LUKS2-abc-secret\n")
	w.expect(Holder{Kind: "device", How: "crypt", Path: "/dev/mapper/secret", Dev: dat})

	w.scan.devs = append(w.scan.devs, Dev{253, 9}) // the caller closes it itself
	w.scan.found = nil
	w.expect()
}

func TestOverlayHoldsItsLayers(t *testing.T) {
	w := newWorld(t)
	w.scan.mounts = append(w.scan.mounts, Mount{
		ID: 70, Parent: 22, Dev: Dev{0, 70}, Root: "/", Point: "/merged", Type: "overlay",
		Super: "rw,lowerdir=/usr:/dat/lower,upperdir=/x,workdir=/y",
	})
	w.expect(Holder{Kind: "mount", How: "overlay", Path: "/merged", Dev: dat})
}

// What a unit with PrivateTmp= sees of /dat goes away with the host's mount;
// what unshare -m sees does not.
func TestMountsInOtherNamespaces(t *testing.T) {
	follows := `100 99 254:1 / / rw master:1 - ext4 /dev/vda1 rw
101 100 253:0 / /dat rw master:20 - xfs /dev/mapper/vg00-dat rw
`
	// A slave of a slave: its master's group is seen in the namespace above.
	middle := `200 99 254:1 / / rw shared:70 master:1 - ext4 /dev/vda1 rw
201 200 253:0 / /dat rw shared:71 master:20 - xfs /dev/mapper/vg00-dat rw
`
	deep := `300 99 254:1 / / rw master:70 - ext4 /dev/vda1 rw
301 300 253:0 / /dat rw master:71 - xfs /dev/mapper/vg00-dat rw
`
	for _, c := range []struct {
		name   string
		tables map[int]string
		want   []string // the points that hold
	}{
		{"a slave", map[int]string{10: follows}, nil},
		{"a slave with the bind mount", map[int]string{10: follows + "103 100 253:0 /pg /srv/my\\040data rw master:20 - xfs x rw\n"}, nil},
		{"a slave's slave", map[int]string{10: middle, 11: deep}, nil},
		{"private", map[int]string{10: `100 99 254:1 / / rw - ext4 /dev/vda1 rw
101 100 253:0 / /dat rw - xfs /dev/mapper/vg00-dat rw
`}, []string{"/dat"}},
		{"mounted elsewhere there", map[int]string{10: `100 99 254:1 / / rw master:1 - ext4 /dev/vda1 rw
101 100 253:0 / /inside rw master:20 - xfs /dev/mapper/vg00-dat rw
`}, []string{"/inside"}},
		{"a mount of its own on top", map[int]string{10: follows + "102 101 0:44 / /dat/x rw - tmpfs none rw\n"}, []string{"/dat"}},
		{"bound to itself there", map[int]string{10: follows + "102 101 253:0 / /dat ro master:20 - xfs /dev/mapper/vg00-dat rw\n"},
			[]string{"/dat", "/dat"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.scan.own = w.scan.mounts // the bind mount, too
			for pid, text := range c.tables {
				dir := w.process(pid, "ns"+strconv.Itoa(pid), nil)
				w.file(filepath.Join(dir, "mountinfo"), text)
			}
			var points []string
			for _, h := range w.find() {
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
	w := newWorld(t)
	dir := w.process(812, "host", map[string]string{"cwd": "/dat"})
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	stat := w.scan.stat
	ctx, cancel := context.WithCancel(t.Context())
	w.scan.stat = func(path string) (Dev, Dev, error) {
		if path == filepath.Join(dir, "cwd") {
			cancel()
			<-hang // a server that does not answer
		}
		return stat(path)
	}
	if _, err := w.scan.within(ctx); fault.Of(err).Code != fault.Interrupted {
		t.Errorf("got %v", err)
	}
}

// The real /proc can be read to its end.
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
	for cgroups, want := range map[string]string{
		"0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n":                  "postgresql@15-main.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                                       "session-3.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/postgresql.service\n":        "user@1000.service",
		"0::/machine.slice/systemd-nspawn@web.service/payload/system.slice/postgresql.service\n": "systemd-nspawn@web.service",
		"12:cpu:/x.service\n1:name=systemd:/system.slice/a\\x2db.service/child\n0::/\n":          "a\\x2db.service",
		"0::/system.slice/_cgroup.service\n":                                                     "cgroup.service",
		"0::/\n":                                                                                 "", "": "", "garbage": "", "0::/a.slice/b.socketx": "",
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

func TestMastersInCirclesEnd(t *testing.T) {
	masters := map[int]int{5: 6, 6: 5}
	if receives(Mount{Optional: "master:5"}, Mount{Optional: "shared:1"}, masters) {
		t.Error("receives from a group it has nothing to do with")
	}
}
