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

// The guard's files in the order in which they are written: testdata/guard.txt has each with its path. SELF stands
// for the running program, PROGRAMS for its directory.
func TestGuardFiles(t *testing.T) {
	w := &walk{state: &State{
		Mounts:  []filesystem.MountSpec{{Point: "/dat"}, {Point: "/srv/my-app data"}},
		Listed:  []string{"/dat", "/idle"},
		Guarded: []string{"systemd-fsck@dev-vg00-dat.service", "postgresql@15-main.service"},
		Members: []*Member{
			{VG: "vg00", LV: "dat"},
			{VG: "vg00", LV: "app", Crypt: "crypt-app"},
		},
	}}
	files, err := w.guardFiles()
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

// The guard reads its records before it lets the members be mounted: a member that holds them would wait for itself.
func TestAVolumeThatTheGuardNeedsIsRefused(t *testing.T) {
	root := filesystem.Mount{ID: 1, Dev: filesystem.Dev{Major: 253}, Root: "/", Point: "/", Type: "ext4"}
	separate := func(point string) filesystem.Mount {
		return filesystem.Mount{ID: 2, Parent: 1, Dev: filesystem.Dev{Major: 253, Minor: 2}, Root: "/", Point: point, Type: "ext4"}
	}
	records := filesystem.Mount{ID: 3, Parent: 2, Dev: filesystem.Dev{Major: 253, Minor: 3}, Root: "/", Point: "/var/lib/rewind", Type: "ext4"}
	for name, c := range map[string]struct {
		mounts []filesystem.Mount
		member filesystem.Mount
		says   string // nothing: it is not refused as one that the guard needs
	}{
		"a separate /var":           {[]filesystem.Mount{root, separate("/var")}, separate("/var"), "holds /var/lib/rewind"},
		"a volume for the records":  {[]filesystem.Mount{root, separate("/var"), records}, records, "holds /var/lib/rewind"},
		"on the way to the records": {[]filesystem.Mount{root, separate("/var"), records}, separate("/var"), "is mounted on /var, above /var/lib/rewind"},
		"a neighbour":               {[]filesystem.Mount{root, separate("/var/lib/rew")}, separate("/var/lib/rew"), ""},
		"the root file system":      {[]filesystem.Mount{root}, root, ""},
	} {
		for _, put := range []bool{true, false} {
			w := &walk{Request: Request{Defer: put}, state: &State{}}
			target := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "v", Path: "/dev/vg00/v"}, FS: c.member.Dev, Mounts: []filesystem.Mount{c.member}}
			err := w.mounts(&found{sight: &sight{view: &snapset.View{Mounts: c.mounts}}, targets: []snapset.Target{target}})
			if refused := errors.Is(err, fault.Unsupported); refused != (c.says != "") {
				t.Errorf("%s, deferred %v: %v", name, put, err)
			} else if refused && (!strings.Contains(err.Error(), "vg00/v "+c.says) || !strings.Contains(fault.Of(err).Hint, "leave vg00/v out")) {
				t.Errorf("%s: %v, hint: %s", name, err, fault.Of(err).Hint)
			}
		}
	}
}

// A power cut may come after any of the guard's files. A mount that requires a unit which does not exist is never
// made, so what others require is there before them, and longer.
func TestTheGuardsFilesNeverRequireAFileThatIsNotThere(t *testing.T) {
	for range 3 {
		w := walkOf(t, server(), "vg00/dat_s")
		w.state.Mounts = at("/a", "/b", "/c", "/d")
		journaled(t, w)
		// b.mount.d cannot be made: what was written before it stays.
		if err := os.WriteFile(filepath.Join(unitDir, "b.mount.d"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.installGuard(); err == nil {
			t.Fatal("installed without b.mount.d")
		}
		sound(t, "half installed")
		if err := os.Remove(filepath.Join(unitDir, "b.mount.d")); err != nil {
			t.Fatal(err)
		}
		if err := w.trip.Begin(Kind, "s", []string{"vg00"}, stepStopping, w.state); err != nil {
			t.Fatal(err)
		}
		if err := w.installGuard(); err != nil {
			t.Fatal(err)
		}
		// b's drop-in cannot be removed, because it is a directory that is not empty.
		b := filepath.Join(unitDir, "b.mount.d", dropIn)
		if err := errors.Join(os.Remove(b), os.MkdirAll(filepath.Join(b, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := w.removeGuard(t.Context()); err == nil {
			t.Error("removed although b's drop-in is there")
		}
		sound(t, "half removed")
	}
}

// A record that somebody took away, as after a settling by hand, leaves its drop-ins. What requires a guard that is gone
// is not mounted at the next boot.
func TestDropInsOfARecordThatIsGoneGoWithTheGuard(t *testing.T) {
	w := walkOf(t, server(), "vg00/dat_s")
	w.state.Mounts = at("/a")
	journaled(t, w)
	if err := errors.Join(w.trip.Begin(Kind, "s", []string{"vg00"}, stepStopping, w.state), w.installGuard()); err != nil {
		t.Fatal(err)
	}
	if err := install(dropIns([]string{"srv-old.mount"})); err != nil {
		t.Fatal(err)
	}
	if err := w.removeGuard(t.Context()); err != nil || isGuarded(t) {
		t.Fatalf("%v, guard left: %v", err, isGuarded(t))
	}
	sound(t, "removed")
	if left, _ := filepath.Glob(filepath.Join(unitDir, "*.mount.d")); len(left) > 0 {
		t.Errorf("left: %s", left)
	}
}

// While a drop-in is read, or was, its unit is there: systemd may start what it has read it for, as a timer's service.
func TestSystemdForgetsTheGuardBeforeItIsGone(t *testing.T) {
	w := walkOf(t, server(), "vg00/dat_s")
	w.state.Mounts = at("/a", "/b")
	journaled(t, w)
	if err := errors.Join(w.trip.Begin(Kind, "s", []string{"vg00"}, stepStopping, w.state), w.installGuard()); err != nil {
		t.Fatal(err)
	}
	called := 0
	w.forget = func(context.Context) error {
		called++
		drops, _ := filepath.Glob(filepath.Join(unitDir, "*.d", dropIn))
		if len(drops) > 0 || !isGuarded(t) {
			t.Errorf("systemd reads its files with %q there, and the guard: %v", drops, isGuarded(t))
		}
		return nil
	}
	if err := w.removeGuard(t.Context()); err != nil || called != 1 || isGuarded(t) {
		t.Errorf("%v, called %d times, guard left: %v", err, called, isGuarded(t))
	}
}

// sound fails unless every unit that a file of the guard requires or starts is there.
func sound(t *testing.T, when string) {
	t.Helper()
	drops, _ := filepath.Glob(filepath.Join(unitDir, "*.d", dropIn))
	links, _ := filepath.Glob(filepath.Join(unitDir, "*.wants", "*"))
	if len(drops) > 0 && !isGuarded(t) {
		t.Errorf("%s: %s require %s, which is not there", when, drops, guardUnit)
	}
	for _, link := range links {
		if _, err := os.Stat(link); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// A virtual machine's disk has no mount that could wait for the guard; the machine can.
func TestARawVolumeWithoutAServiceIsRefused(t *testing.T) {
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
		w := &walk{state: &State{}}
		w.state.Services.Stop = c.stop
		err := w.unguarded(&found{targets: []snapset.Target{c.target}})
		if errors.Is(err, fault.Unsupported) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		if c.refused && (!strings.Contains(err.Error(), "vg00/vm") || !strings.Contains(fault.Of(err).Hint, "services=")) {
			t.Errorf("%s: %v, hint %q", name, err, fault.Of(err).Hint)
		}
	}
}

// The log of a member is opened by that member's mount alone, and that waits.
func TestALogOfAMemberNeedsNoService(t *testing.T) {
	log := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "xlog"}, FS: filesystem.Dev{Major: 253, Minor: 9}}
	xfs := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "xl"}, FS: filesystem.Dev{Major: 253, Minor: 8}}
	xfs.Mounts = []filesystem.Mount{{ID: 1, Root: "/", Point: "/xl"}}
	w := &walk{state: &State{}}
	if err := w.unguarded(&found{targets: []snapset.Target{xfs, log}}); !errors.Is(err, fault.Unsupported) {
		t.Errorf("a raw volume beside it: %v", err)
	}
	xfs.Needs = []snapset.Need{{What: "log", LV: log.LV}}
	if err := w.unguarded(&found{targets: []snapset.Target{xfs, log}}); err != nil {
		t.Errorf("its log: %v", err)
	}
}
