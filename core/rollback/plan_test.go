package rollback

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/snapset"
)

func TestMountSpecOf(t *testing.T) {
	dev := filesystem.Dev{Major: 253, Minor: 1}
	whole := filesystem.Mount{
		ID: 1, Dev: dev, Root: "/", Point: "/dat", Type: "xfs", Source: "/dev/mapper/vg00-dat",
		Options: "rw,noatime", Super: "rw,attr2",
	}
	part, view := whole, whole
	part.ID, part.Root, part.Point = 2, "/logs", "/var/log/app"
	view.ID, view.Point, view.Options = 3, "/srv/view", "ro,nosuid"
	all := []filesystem.Mount{whole, part, view}
	want := filesystem.MountSpec{
		Source: "/dev/mapper/vg00-dat", Point: "/dat", Type: "xfs", Options: []string{"rw", "noatime"},
	}
	if diff := cmp.Diff(want, mountSpecOf(whole, all, nil)); diff != "" {
		t.Error(diff)
	}
	want = filesystem.MountSpec{Bind: "/dat/logs", Point: "/var/log/app"}
	if diff := cmp.Diff(want, mountSpecOf(part, all, nil)); diff != "" {
		t.Error(diff)
	}
	part.Options = "ro,noexec,noatime"
	want.Options = []string{"ro", "noexec", "noatime"}
	if diff := cmp.Diff(want, mountSpecOf(part, all, nil)); diff != "" {
		t.Error(diff)
	}
	// The kernel refuses to mount a device read-only if it is already mounted for writing.
	want = filesystem.MountSpec{Bind: "/dat", Point: "/srv/view", Options: []string{"ro", "nosuid"}}
	if diff := cmp.Diff(want, mountSpecOf(view, all, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestHasNested(t *testing.T) {
	at := func(points ...string) (specs []filesystem.MountSpec) {
		for _, p := range points {
			specs = append(specs, filesystem.MountSpec{Point: p})
		}
		return specs
	}
	if hasNested(at("/dat", "/data", "/srv/x")) {
		t.Error("/data is not below /dat")
	}
	if !hasNested(at("/srv/x", "/srv")) || !hasNested(at("/", "/dat")) {
		t.Error("nested mounts are not seen")
	}
}

// The kernel reuses the IDs of mounts that are gone, so a mount can have a lower ID than the mount that it lies below.
func TestMountsAreSortedByKernelTable(t *testing.T) {
	table := []filesystem.Mount{
		{ID: 40, Point: "/"}, {ID: 91, Point: "/dat"}, {ID: 17, Point: "/dat/wal"}, {ID: 50, Point: "/srv"},
	}
	some := []filesystem.Mount{table[2], table[3], table[1]}
	sortByTable(some, table)
	if some[0].Point != "/dat" || some[1].Point != "/dat/wal" || some[2].Point != "/srv" {
		t.Error(some)
	}
}

func TestCOWBytes(t *testing.T) {
	if got := cowBytes(8192, 4096); got != 8192 {
		t.Error(got)
	}
	if got := cowBytes(8192, 65536); got != 2*65536 { // each 4 KiB block may be in a different chunk
		t.Error(got)
	}
}

// The advice must help: holders=stop ends no login session, and services=auto stops no transient unit.
func TestAdviceNamesWhatHelps(t *testing.T) {
	shell := filesystem.Holder{Kind: "process", How: "cwd", Path: "/dat", PID: 7, Command: "bash", Unit: "session-3.scope"}
	sudo := filesystem.Holder{Kind: "process", How: "cwd", Path: "/dat", PID: 8, Command: "sudo", Unit: "session-3.scope"}
	job := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat/x", PID: 9, Command: "dd", Unit: "run-u1.service"}
	if got, want := advice([]filesystem.Holder{shell, sudo}, nil),
		"have bash (pid 7), sudo (pid 8) leave /dat (cd /): services=auto does not end a login session"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got := advice([]filesystem.Holder{shell, job}, []string{"run-u1.service"})
	for _, want := range []string{"bash (pid 7)", "stop run-u1.service yourself", "holders=stop"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	run := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat/x", PID: 10, Command: "lvm_merge"}
	run.Unit = journey.UnitPrefix + "1.service"
	other := run
	other.Path = "/dat/y"
	if got := advice([]filesystem.Holder{run, other}, nil); strings.Count(got, "wait for the end of") != 1 {
		t.Errorf("a run that holds two files: %s", got)
	}
}

// holders=stop never ends this process, those that it descends from, init, or sshd.
func TestSplitKillableSparesLoginsAndCallers(t *testing.T) {
	process := func(pid int, command string) filesystem.Holder {
		return filesystem.Holder{Kind: "process", PID: pid, Command: command}
	}
	kill, rest := splitKillable([]filesystem.Holder{
		process(os.Getpid(), "rewind"), process(os.Getppid(), "bash"), process(1, "init"), process(1<<22-1, "sshd: root"),
		process(1<<22-1, "tail"), {Kind: "swap", Path: "/dat/swap"},
	})
	if len(kill) != 1 || kill[0].Command != "tail" || len(rest) != 5 {
		t.Errorf("kill %v, rest %v", kill, rest)
	}
}

func TestNewMemberRefusesUnmergeableSnapshots(t *testing.T) {
	f := server()
	f.Make("vg00", lvmtest.Volume{Name: "full", Origin: "dat", Size: 32 * mib})
	f.Fill("vg00/full", 100)
	f.Make("vg00", lvmtest.Volume{Name: "twin", Pool: "pool", Origin: "thin"})
	rb := newAtMerge(t, f)
	if err := rb.lvm.Merge(t.Context(), "vg00/thin_s"); err != nil { // leaves twin without an origin
		t.Fatal(err)
	}
	f.SetOpen("vg00/app", 1)
	if err := rb.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
		t.Fatal(err)
	}
	r := readReport(t, rb)
	for name, code := range map[string]fault.Code{
		"full": fault.SnapshotInvalid, "twin": fault.Unsupported, "app_s": fault.Merging,
	} {
		v, ok := r.Volume("vg00", name)
		if !ok {
			t.Fatal("no " + name)
		}
		if _, err := newMember(r, v); !errors.Is(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// LVM merges no thick snapshot into a read-only volume, and nothing into an external origin. When it says so it may
// have begun to merge other members.
func TestWhatLVMDoesNotMergeIsRefused(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f)
	argv := []string{"lvm", "lvchange", "--permission", "r", "--", "vg00/dat", "vg00/thin"}
	if _, err := f.Run(t.Context(), command.Cmd{Argv: argv, Changes: true}); err != nil {
		t.Fatal(err)
	}
	r := readReport(t, rb)
	if app, _ := r.Volume("vg00", "app"); app != nil {
		app.IsExternalOrigin = true // the fake has none
	}
	for name, refused := range map[string]bool{"dat_s": true, "thin_s": false, "app_s": true} {
		v, _ := r.Volume("vg00", name)
		_, err := newMember(r, v)
		if errors.Is(err, fault.Unsupported) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A merge loses the origin if the kernel and LVM disagree about the pool's transaction id.
func TestMergeInDamagedPoolIsRefused(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/thin_s")
	if err := rb.plan.checkPool(t.Context(), readReport(t, rb), rb.state.Members[0]); err != nil {
		t.Fatal(err)
	}
	f.Suspend("vg00/thin", false)
	// This damages the pool.
	_ = rb.lvm.CreateSnapshot(t.Context(), lvm.SnapshotSpec{VG: "vg00", Origin: "thin", Name: "x"})
	err := rb.plan.checkPool(t.Context(), readReport(t, rb), rb.state.Members[0])
	if !errors.Is(err, fault.PoolDamaged) || !strings.Contains(err.Error(), "vg00/pool") {
		t.Error(err)
	}
}

// What a merge writes to the origin fills the origin's other snapshots.
func TestMergeThatOverflowsSiblingIsRefused(t *testing.T) {
	f := server()
	f.Make("vg00", lvmtest.Volume{Name: "dat_old", Origin: "dat", Size: 16 * mib})
	f.Fill("vg00/dat_s", 75)
	f.Fill("vg00/dat_old", 10)
	rb := newAtMerge(t, f, "vg00/dat_s")
	r := readReport(t, rb)
	v, _ := r.Volume("vg00", "dat_s")
	m := rb.state.Members[0]
	m.Siblings = siblingsOf(r, m, v)
	err := m.checkSiblings()
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), "vg00/dat_old") ||
		!strings.Contains(fault.Of(err).Hint, "lvextend") {
		t.Error(err)
	}
	f.Fill("vg00/dat_s", 25)
	rb = newAtMerge(t, f, "vg00/dat_s")
	m = rb.state.Members[0]
	m.Siblings = siblingsOf(readReport(t, rb), m, v)
	if err := m.checkSiblings(); err != nil {
		t.Error(err)
	}
	rb.state.Members[0] = m
	f.Fill("vg00/dat_old", 90) // while the services stop
	err = rb.survey.recheck(t.Context())
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), "vg00/dat_old") || rb.merges.ready {
		t.Error("the sibling filled after the check:", err)
	}
}

// Merging a thin snapshot leaves its siblings without an origin, so that nobody can roll back to them any more.
func TestWarnsOfThinSnapshotsThatLoseTheirOrigin(t *testing.T) {
	f := server()
	tags := []string{"rewind:set=old", "rewind:id=1"}
	f.Make("vg00", lvmtest.Volume{Name: "thin_old", Pool: "pool", Origin: "thin", Tags: tags})
	f.Make("vg00", lvmtest.Volume{Name: "by_hand", Pool: "pool", Origin: "thin"})
	f.Make("vg00", lvmtest.Volume{Name: "dat_old", Origin: "dat", Size: 16 * mib})
	rb := newAtMerge(t, f, "vg00/dat_s", "vg00/thin_s")
	r := readReport(t, rb)
	warnings := func(i int) string {
		v, _ := rb.state.Members[i].find(r)
		return strings.Join(orphanWarnings(r, rb.state.Members[i], v), "\n")
	}
	if got := warnings(0); got != "" {
		t.Errorf("a thick merge: %s", got)
	}
	for _, want := range []string{
		"merging vg00/thin_s", "vg00/thin_old of set old, vg00/by_hand cannot be rolled back to", "readable",
	} {
		if got := warnings(1); !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	f.Remove("vg00/thin_old", "vg00/by_hand")
	r = readReport(t, rb)
	if got := warnings(1); got != "" {
		t.Errorf("the only snapshot: %s", got)
	}
}

func TestWarnsOfSetWithSeveralInstants(t *testing.T) {
	for each, want := range map[bool]int{true: 1, false: 0} {
		got := severalInstantsWarning(&snapset.Set{Label: snapset.Label{Set: "s", Each: each}})
		if len(got) != want {
			t.Errorf("each %v: %v", each, got)
		}
	}
}

// A path unit that is stopped for what it watches makes no volume safe at boot, and no service was down for it.
func TestPathUnitsUseNoVolume(t *testing.T) {
	for units, want := range map[string]bool{"": false, "deploy.path": false, "deploy.path app.service": true} {
		if got := usesVolumes(strings.Fields(units)); got != want {
			t.Errorf("%q: %v", units, got)
		}
	}
}

// The kernel shows that a mount maps owners, and not how. Only fstab may know that.
func TestOwnerMapIsLostUnlessFstabHasIt(t *testing.T) {
	mapped, plain := filesystem.Mount{Options: "rw,idmapped"}, filesystem.Mount{Options: "rw"}
	for _, c := range []struct {
		mount filesystem.Mount
		again []string
		lost  bool
	}{
		{mapped, []string{"rw", "idmapped"}, true}, {mapped, []string{"rw", "noatime"}, true},
		{mapped, []string{"rw", "X-mount.idmap=b:0:100000:65536"}, false}, {plain, []string{"rw"}, false},
	} {
		if got := losesOwnerMap(c.mount, c.again); got != c.lost {
			t.Errorf("%q made again with %q: lost %v", c.mount.Options, c.again, got)
		}
	}
}

// What cannot be unmounted, or not made again as it is, is refused before a service stops.
func TestMountThatCannotBeMadeAgainIsRefused(t *testing.T) {
	root := filesystem.Mount{ID: 1, Point: "/", Source: "/dev/vg00/root"}
	member := filesystem.Mount{ID: 2, Parent: 1, Point: "/srv/x", Root: "/", Options: "rw,relatime"}
	over := filesystem.Mount{ID: 3, Parent: 1, Point: "/srv", Source: "tmpfs"}
	mapped := filesystem.Mount{ID: 4, Parent: 1, Point: "/srv/guest", Root: "/", Options: "rw,idmapped"}
	table := []filesystem.Mount{root, member, mapped}
	for name, c := range map[string]struct {
		mount filesystem.Mount
		table []filesystem.Mount
		want  fault.Code
	}{
		"as it is":          {member, table, ""},
		"hidden by another": {member, append(table, over), fault.Busy},
		"idmapped":          {mapped, table, fault.Unsupported},
	} {
		err := checkMadeAgain(c.mount, []filesystem.Mount{c.mount}, c.table, nil)
		if got := fault.Of(err); (got == nil) != (c.want == "") || got != nil && got.Code != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMountPointThatIsNotUTF8IsRefused(t *testing.T) {
	m := filesystem.Mount{ID: 1, Root: "/", Point: "/srv/\xff", Type: "ext4"}
	err := checkMadeAgain(m, []filesystem.Mount{m}, []filesystem.Mount{m}, nil)
	if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), `"/srv/\xff"`) {
		t.Errorf("%v", err)
	}
}
