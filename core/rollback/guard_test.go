package rollback

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// testdata/guard.txt has the path and the content of each file of the guard, in the order in which they are written.
// SELF stands for the path of the running program, PROGRAMS for its directory.
func TestGuardFiles(t *testing.T) {
	rb := newParts(&base{server: thisServer(), state: &State{
		Mounts:  []filesystem.MountSpec{{Point: "/dat"}, {Point: "/srv/my-app data"}},
		Listed:  []string{"/dat", "/idle"},
		Guarded: []string{"systemd-fsck@dev-vg00-dat.service", "postgresql@15-main.service"},
		Members: []*Member{
			{VG: "vg00", LV: "dat"},
			{VG: "vg00", LV: "app", Crypt: "crypt-app"},
		},
	}})
	files, err := rb.guard.files()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	names := strings.NewReplacer(self, "SELF", filepath.Dir(self), "PROGRAMS")
	for _, f := range files {
		if f.link != "" {
			got.WriteString("-- " + f.path + " -> " + f.link + " --\n")
			continue
		}
		got.WriteString("-- " + f.path + " --\n" + names.Replace(f.text))
	}
	golden := filepath.Join("testdata", "guard.txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s\nUPDATE=1 go test ./core/rollback writes it anew", diff)
	}
}

// The guard reads the journal before it lets the members be mounted. If a member held the journal, its mount would wait
// for the guard and the guard for its mount.
func TestVolumeThatGuardNeedsIsRefused(t *testing.T) {
	root := filesystem.Mount{ID: 1, Dev: filesystem.Dev{Major: 253}, Root: "/", Point: "/", Type: "ext4"}
	separate := func(point string) filesystem.Mount {
		dev := filesystem.Dev{Major: 253, Minor: 2}
		return filesystem.Mount{ID: 2, Parent: 1, Dev: dev, Root: "/", Point: point, Type: "ext4"}
	}
	journal := filesystem.Mount{ID: 3, Parent: 2, Root: "/", Point: "/var/lib/rewind", Type: "ext4"}
	journal.Dev = filesystem.Dev{Major: 253, Minor: 3}
	for name, c := range map[string]struct {
		mounts []filesystem.Mount
		member filesystem.Mount
		says   string // empty: the volume is not refused
	}{
		"a separate /var": {[]filesystem.Mount{root, separate("/var")}, separate("/var"), "holds /var/lib/rewind"},
		"a volume for the journal": {
			[]filesystem.Mount{root, separate("/var"), journal}, journal, "holds /var/lib/rewind",
		},
		"on the way to the journal": {
			[]filesystem.Mount{root, separate("/var"), journal}, separate("/var"),
			"is mounted on /var, above /var/lib/rewind",
		},
		"a neighbour":          {[]filesystem.Mount{root, separate("/var/lib/rew")}, separate("/var/lib/rew"), ""},
		"the root file system": {[]filesystem.Mount{root}, root, ""},
	} {
		for _, deferred := range []bool{true, false} {
			rb := newParts(&base{Request: Request{Defer: deferred}, server: thisServer(), state: &State{}})
			lv := &lvm.Volume{VG: "vg00", Name: "v", Path: "/dev/vg00/v"}
			target := snapset.Target{LV: lv, FS: c.member.Dev, Mounts: []filesystem.Mount{c.member}}
			sel := &selection{view: snapset.NewView(nil, c.mounts)}
			err := rb.plan.planMounts(&findings{selection: sel, targets: []snapset.Target{target}})
			if refused := errors.Is(err, fault.Unsupported); refused != (c.says != "") {
				t.Errorf("%s, deferred %v: %v", name, deferred, err)
			} else if refused && (!strings.Contains(err.Error(), "vg00/v "+c.says) ||
				!strings.Contains(fault.Of(err).Hint, "leave vg00/v out")) {
				t.Errorf("%s: %v, hint: %s", name, err, fault.Of(err).Hint)
			}
		}
	}
}

// A power cut may come after each of the guard's files is written or removed. A mount that requires a unit which does
// not exist is never made, so a required unit must be written before the files that require it, and removed after them.
func TestGuardFilesNeverRequireMissingUnit(t *testing.T) {
	for range 3 {
		rb := newAtMerge(t, server(), "vg00/dat_s")
		rb.state.Mounts = mountsAt("/a", "/b", "/c", "/d")
		setUpJournal(t, rb)
		// The file b.mount.d is in the way of the directory of b's drop-in. What was written before it stays.
		if err := os.WriteFile(filepath.Join(rb.server.UnitDir, "b.mount.d"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rb.guard.install(); err == nil {
			t.Fatal("installed without b.mount.d")
		}
		checkGuardFiles(t, rb, "half installed")
		if err := os.Remove(filepath.Join(rb.server.UnitDir, "b.mount.d")); err != nil {
			t.Fatal(err)
		}
		if err := rb.run.Begin(Kind, "s", []string{"vg00"}, stepStopping, rb.state); err != nil {
			t.Fatal(err)
		}
		if err := rb.guard.install(); err != nil {
			t.Fatal(err)
		}
		// b's drop-in cannot be removed, because it is now a directory that is not empty.
		b := filepath.Join(rb.server.UnitDir, "b.mount.d", dropIn)
		if err := errors.Join(os.Remove(b), os.MkdirAll(filepath.Join(b, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := rb.guard.remove(t.Context()); err == nil {
			t.Error("removed although b's drop-in is there")
		}
		checkGuardFiles(t, rb, "half removed")
	}
}

// If somebody removes a journal entry, for example after settling it by hand, its drop-ins remain. If they required a
// guard that does not exist, their mounts would not be made at the next boot.
func TestRemoveGuardRemovesOrphanedDropIns(t *testing.T) {
	rb := newAtMerge(t, server(), "vg00/dat_s")
	rb.state.Mounts = mountsAt("/a")
	setUpJournal(t, rb)
	begin := rb.run.Begin(Kind, "s", []string{"vg00"}, stepStopping, rb.state)
	if err := errors.Join(begin, rb.guard.install()); err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(rb.server.dropIns([]string{"srv-old.mount"})); err != nil {
		t.Fatal(err)
	}
	if err := rb.guard.remove(t.Context()); err != nil || isGuarded(t, rb) {
		t.Fatalf("%v, guard left: %v", err, isGuarded(t, rb))
	}
	checkGuardFiles(t, rb, "removed")
	if left, _ := filepath.Glob(filepath.Join(rb.server.UnitDir, "*.mount.d")); len(left) > 0 {
		t.Errorf("left: %s", left)
	}
}

// While systemd still knows a drop-in that it has read, the guard's unit must exist, because systemd may start a unit
// that requires it, for example for a timer.
func TestGuardIsForgottenBeforeItsUnitIsRemoved(t *testing.T) {
	rb := newAtMerge(t, server(), "vg00/dat_s")
	rb.state.Mounts = mountsAt("/a", "/b")
	setUpJournal(t, rb)
	begin := rb.run.Begin(Kind, "s", []string{"vg00"}, stepStopping, rb.state)
	if err := errors.Join(begin, rb.guard.install()); err != nil {
		t.Fatal(err)
	}
	called := 0
	rb.guard.forget = func(context.Context) error {
		called++
		drops, _ := filepath.Glob(filepath.Join(rb.server.UnitDir, "*.d", dropIn))
		if len(drops) > 0 || !isGuarded(t, rb) {
			t.Errorf("systemd reads its files while these drop-ins exist: %q; the guard exists: %v", drops, isGuarded(t, rb))
		}
		return nil
	}
	if err := rb.guard.remove(t.Context()); err != nil || called != 1 || isGuarded(t, rb) {
		t.Errorf("%v, called %d times, guard left: %v", err, called, isGuarded(t, rb))
	}
}

// checkGuardFiles fails the test unless every unit that a file of the guard requires or starts exists.
func checkGuardFiles(t *testing.T, rb *rollback, when string) {
	t.Helper()
	drops, _ := filepath.Glob(filepath.Join(rb.server.UnitDir, "*.d", dropIn))
	links, _ := filepath.Glob(filepath.Join(rb.server.UnitDir, "*.wants", "*"))
	if len(drops) > 0 && !isGuarded(t, rb) {
		t.Errorf("%s: %s require %s, which is not there", when, drops, guardUnit)
	}
	for _, link := range links {
		if _, err := os.Stat(link); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// A volume that is a virtual machine's disk has no mount that could wait for the guard, but the unit of the virtual
// machine can wait.
func TestRawVolumeWithoutServiceIsRefused(t *testing.T) {
	raw := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "vm"}, FS: filesystem.Dev{Major: 253, Minor: 9}}
	mounted, encrypted := raw, raw
	mounted.Mounts = []filesystem.Mount{{ID: 1, Root: "/", Point: "/vm"}}
	encrypted.Crypt = "vm"
	for name, c := range map[string]struct {
		target  snapset.Target
		stop    []string
		refused bool
	}{
		"raw":                {raw, nil, true},
		"raw, with a unit":   {raw, []string{"vm.service"}, false},
		"mounted":            {mounted, nil, false},
		"opened by crypttab": {encrypted, nil, false},
	} {
		rb := newParts(&base{server: thisServer(), state: &State{}})
		rb.state.Services.Stop = c.stop
		err := rb.plan.checkGuarded(&findings{targets: []snapset.Target{c.target}})
		if errors.Is(err, fault.Unsupported) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		if c.refused && (!strings.Contains(err.Error(), "vg00/vm") || !strings.Contains(fault.Of(err).Hint, "services=")) {
			t.Errorf("%s: %v, hint %q", name, err, fault.Of(err).Hint)
		}
	}
}

// Only the mount of its file system opens a log, and that mount waits for the guard.
func TestLogOfMemberNeedsNoService(t *testing.T) {
	log := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "xlog"}, FS: filesystem.Dev{Major: 253, Minor: 9}}
	xfs := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "xl"}, FS: filesystem.Dev{Major: 253, Minor: 8}}
	xfs.Mounts = []filesystem.Mount{{ID: 1, Root: "/", Point: "/xl"}}
	rb := newParts(&base{server: thisServer(), state: &State{}})
	if err := rb.plan.checkGuarded(&findings{targets: []snapset.Target{xfs, log}}); !errors.Is(err, fault.Unsupported) {
		t.Errorf("a raw volume beside it: %v", err)
	}
	xfs.Needs = []snapset.Need{{What: "log", LV: log.LV}}
	if err := rb.plan.checkGuarded(&findings{targets: []snapset.Target{xfs, log}}); err != nil {
		t.Errorf("its log: %v", err)
	}
}

// systemd follows no links in RequiresMountsFor=: an administrator who has linked /var/lib/rewind to a data disk would
// have the guard run before that disk is mounted, and without its journal.
func TestGuardNeedsWhatLinksLeadTo(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state, disk, programs := top+"/state", top+"/disk", top+"/programs"
	if err := errors.Join(os.Mkdir(disk, 0o700), os.Mkdir(programs, 0o700), os.Symlink(disk, state)); err != nil {
		t.Fatal(err)
	}
	want := []string{state, programs, disk}
	if diff := cmp.Diff(want, guardNeeds(state, programs)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{disk}, guardNeeds(disk, disk+"/programs")); diff != "" {
		t.Error(diff)
	}
	if got := quoteForUnit("/srv/100% of it"); got != `"/srv/100%% of it"` {
		t.Error(got)
	}
}
