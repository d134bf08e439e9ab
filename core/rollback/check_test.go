package rollback

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/snapset"
)

func TestAgain(t *testing.T) {
	dev := filesystem.Dev{Major: 253, Minor: 1}
	whole := filesystem.Mount{ID: 1, Dev: dev, Root: "/", Point: "/dat", Type: "xfs", Source: "/dev/mapper/vg00-dat", Options: "rw,noatime", Super: "rw,attr2"}
	part, view := whole, whole
	part.ID, part.Root, part.Point = 2, "/logs", "/var/log/app"
	view.ID, view.Point, view.Options = 3, "/srv/view", "ro,nosuid"
	all := []filesystem.Mount{whole, part, view}
	want := filesystem.MountSpec{Source: "/dev/mapper/vg00-dat", Point: "/dat", Type: "xfs", Options: []string{"rw", "noatime"}}
	if diff := cmp.Diff(want, again(whole, all, nil)); diff != "" {
		t.Error(diff)
	}
	want = filesystem.MountSpec{Bind: "/dat/logs", Point: "/var/log/app"}
	if diff := cmp.Diff(want, again(part, all, nil)); diff != "" {
		t.Error(diff)
	}
	part.Options = "ro,noexec,noatime"
	want.Options = []string{"ro", "noexec", "noatime"}
	if diff := cmp.Diff(want, again(part, all, nil)); diff != "" {
		t.Error(diff)
	}
	// The kernel refuses to mount a device read-only that is mounted for writing.
	want = filesystem.MountSpec{Bind: "/dat", Point: "/srv/view", Options: []string{"ro", "nosuid"}}
	if diff := cmp.Diff(want, again(view, all, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestNested(t *testing.T) {
	at := func(points ...string) (specs []filesystem.MountSpec) {
		for _, p := range points {
			specs = append(specs, filesystem.MountSpec{Point: p})
		}
		return specs
	}
	if nested(at("/dat", "/data", "/srv/x")) {
		t.Error("/data is not below /dat")
	}
	if !nested(at("/srv/x", "/srv")) || !nested(at("/", "/dat")) {
		t.Error("nested mounts are not seen")
	}
}

// The kernel gives the numbers of mounts that are gone to new ones: what is mounted below another may have a lower one.
func TestMountsComeInTheOrderOfTheTable(t *testing.T) {
	table := []filesystem.Mount{{ID: 40, Point: "/"}, {ID: 91, Point: "/dat"}, {ID: 17, Point: "/dat/wal"}, {ID: 50, Point: "/srv"}}
	some := []filesystem.Mount{table[2], table[3], table[1]}
	inOrder(some, table)
	if some[0].Point != "/dat" || some[1].Point != "/dat/wal" || some[2].Point != "/srv" {
		t.Error(some)
	}
}

func TestInChunks(t *testing.T) {
	if got := inChunks(8192, 4096); got != 8192 {
		t.Error(got)
	}
	if got := inChunks(8192, 65536); got != 2*65536 { // each 4 KiB may touch a chunk of its own
		t.Error(got)
	}
}

// What is advised must help: holders=stop ends no login session, services=auto no transient unit.
func TestAdvice(t *testing.T) {
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
	held := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat/x", PID: 10, Command: "lvm_merge", Unit: journey.UnitPrefix + "1.service"}
	other := held
	other.Path = "/dat/y"
	if got := advice([]filesystem.Holder{held, other}, nil); strings.Count(got, "wait for the end of") != 1 {
		t.Errorf("a run that holds two files: %s", got)
	}
}

// Whatever the user says: not ourselves, not what we are started by, not init, not sshd.
func TestKillable(t *testing.T) {
	process := func(pid int, command string) filesystem.Holder {
		return filesystem.Holder{Kind: "process", PID: pid, Command: command}
	}
	kill, rest := killable([]filesystem.Holder{
		process(os.Getpid(), "rewind"), process(os.Getppid(), "bash"), process(1, "init"), process(1<<22-1, "sshd: root"),
		process(1<<22-1, "tail"), {Kind: "swap", Path: "/dat/swap"},
	})
	if len(kill) != 1 || kill[0].Command != "tail" || len(rest) != 5 {
		t.Errorf("kill %v, rest %v", kill, rest)
	}
}

func TestMemberRefuses(t *testing.T) {
	f := server()
	f.Make("vg00", lvmtest.Volume{Name: "full", Origin: "dat", Size: 32 * mib})
	f.Fill("vg00/full", 100)
	f.Make("vg00", lvmtest.Volume{Name: "twin", Pool: "pool", Origin: "thin"})
	w := walkOf(t, f)
	if err := w.lvm.Merge(t.Context(), "vg00/thin_s"); err != nil { // takes the origin of its twin away
		t.Fatal(err)
	}
	f.SetOpen("vg00/app", 1)
	if err := w.lvm.Merge(t.Context(), "vg00/app_s"); err != nil {
		t.Fatal(err)
	}
	r := report(t, w)
	for name, code := range map[string]fault.Code{"full": fault.SnapshotInvalid, "twin": fault.Unsupported, "app_s": fault.Merging} {
		v, ok := r.Volume("vg00", name)
		if !ok {
			t.Fatal("no " + name)
		}
		if _, err := member(r, v); !errors.Is(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A merge in a pool whose kernel and LVM disagree loses the origin.
func TestAMergeInADamagedPoolIsRefused(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/thin_s")
	if err := w.poolSound(t.Context(), report(t, w), w.state.Members[0]); err != nil {
		t.Fatal(err)
	}
	f.Suspend("vg00/thin", false)
	_ = w.lvm.CreateSnapshot(t.Context(), lvm.Create{VG: "vg00", Origin: "thin", Name: "x"}) // damages it
	err := w.poolSound(t.Context(), report(t, w), w.state.Members[0])
	if !errors.Is(err, fault.PoolDamaged) || !strings.Contains(err.Error(), "vg00/pool") {
		t.Error(err)
	}
}

// A merge writes to the origin, and so fills its other snapshots.
func TestAMergeThatWouldOverflowAnotherSnapshotIsRefused(t *testing.T) {
	f := server()
	f.Make("vg00", lvmtest.Volume{Name: "dat_old", Origin: "dat", Size: 16 * mib})
	f.Fill("vg00/dat_s", 75)
	f.Fill("vg00/dat_old", 10)
	w := walkOf(t, f, "vg00/dat_s")
	r := report(t, w)
	v, _ := r.Volume("vg00", "dat_s")
	m := w.state.Members[0]
	m.Siblings = siblings(r, m, v)
	err := m.spares()
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), "vg00/dat_old") || !strings.Contains(fault.Of(err).Hint, "lvextend") {
		t.Error(err)
	}
	f.Fill("vg00/dat_s", 25)
	w = walkOf(t, f, "vg00/dat_s")
	m = w.state.Members[0]
	m.Siblings = siblings(report(t, w), m, v)
	if err := m.spares(); err != nil {
		t.Error(err)
	}
	w.state.Members[0] = m
	f.Fill("vg00/dat_old", 90) // while the services stop
	if err := w.recheck(t.Context()); !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), "vg00/dat_old") || w.ready {
		t.Error("the sibling filled after the first look:", err)
	}
}

// Merging a thin snapshot takes the origin of its siblings away, and with it the way back to them.
func TestOtherThinSnapshotsAreWarnedOf(t *testing.T) {
	f := server()
	f.Make("vg00", lvmtest.Volume{Name: "thin_old", Pool: "pool", Origin: "thin", Tags: []string{"rewind:set=old", "rewind:id=1"}})
	f.Make("vg00", lvmtest.Volume{Name: "by_hand", Pool: "pool", Origin: "thin"})
	f.Make("vg00", lvmtest.Volume{Name: "dat_old", Origin: "dat", Size: 16 * mib})
	w := walkOf(t, f, "vg00/dat_s", "vg00/thin_s")
	r := report(t, w)
	warnings := func(i int) string {
		v, _ := r.ByUUID(w.state.Members[i].SnapshotID)
		return strings.Join(orphans(r, w.state.Members[i], v), "\n")
	}
	if got := warnings(0); got != "" {
		t.Errorf("a thick merge: %s", got)
	}
	for _, want := range []string{"merging vg00/thin_s", "vg00/thin_old of set old, vg00/by_hand cannot be rolled back to", "readable"} {
		if got := warnings(1); !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	if err := w.lvm.Remove(t.Context(), "vg00/thin_old", "vg00/by_hand"); err != nil {
		t.Fatal(err)
	}
	r = report(t, w)
	if got := warnings(1); got != "" {
		t.Errorf("the only snapshot: %s", got)
	}
}

func TestASetOfSeveralInstantsIsWarnedOf(t *testing.T) {
	for each, want := range map[bool]int{true: 1, false: 0} {
		w := &walk{}
		w.warnOfInstants(&snapset.Set{Label: snapset.Label{Set: "s", Each: each}})
		if len(w.warnings) != want {
			t.Errorf("each %v: %v", each, w.warnings)
		}
	}
}
