package rollback

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
)

// mounter is a mount(8) that fails for some mount points and remembers for which it was run.
type mounter struct {
	fails []string
	tried *[]string
}

func (m mounter) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	point := c.Argv[len(c.Argv)-1]
	*m.tried = append(*m.tried, point)
	if slices.Contains(m.fails, point) {
		return command.Output{}, &command.Error{Argv: c.Argv, Code: 32, Stderr: "wrong fs type", Err: errors.New("exit status 32")}
	}
	return command.Output{}, nil
}

// journaled gives a rollback a journal, and directories of units and of devices of its own.
func journaled(t *testing.T, w *walk) {
	t.Helper()
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	dir, lock := unitDir, guardLock
	t.Cleanup(func() { unitDir, guardLock = dir, lock })
	unitDir, guardLock = t.TempDir(), filepath.Join(t.TempDir(), "lock")
	dev := deviceDir
	t.Cleanup(func() { deviceDir = dev })
	deviceDir = t.TempDir()
	for _, m := range w.state.Members {
		if err := errors.Join(os.MkdirAll(filepath.Join(deviceDir, m.VG), 0o700), os.WriteFile(filepath.Join(deviceDir, m.origin()), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	state, run := journalDir, runDir
	t.Cleanup(func() { journalDir, runDir = state, run })
	journalDir, runDir = t.TempDir(), t.TempDir()
	w.copies = []string{t.TempDir()}
	w.trip = &journey.Trip{Journal: j}
}

// begun is a rollback that has come to a step, with its guard.
func begun(t *testing.T, w *walk, step string) {
	t.Helper()
	journaled(t, w)
	if err := w.installGuard(); err != nil {
		t.Fatal(err)
	}
	if err := w.trip.Begin(Kind, "s", []string{"vg00"}, step, w.state); err != nil {
		t.Fatal(err)
	}
}

// isGuarded says whether the boot guard is installed.
func isGuarded(t *testing.T) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(unitDir, guardUnit))
	return err == nil
}

func at(points ...string) (specs []filesystem.MountSpec) {
	for _, p := range points {
		specs = append(specs, filesystem.MountSpec{Source: "/dev/vg00/x", Point: p, Type: "xfs"})
	}
	return specs
}

// A service on a directory that should be a mount point would write where nobody finds it. There is no systemd here that
// could start one: to try is a panic.
func TestServicesStayDownWhereTheWayBackEndsUnmounted(t *testing.T) {
	var tried []string
	w := walkOf(t, server(), "vg00/dat_s", "vg00/app_s")
	w.systemd = &service.Systemd{}
	w.commands = command.NewRecorder(mounter{[]string{"/rw-test/a"}, &tried})
	w.state.Mounts = at("/rw-test/a", "/rw-test/a/below", "/rw-test/b")
	w.state.SetMounts = at("/rw-test/set")
	w.state.Members[1].Crypt = "rw-test-crypt" // which no crypttab has a key for
	w.state.Services = service.Plan{Active: []string{"one.service", "two.service"}}
	begun(t, w, stepUnmounting)

	err := w.back(t.Context(), fault.New(fault.Busy, "vg00/dat is open"))
	if !errors.Is(err, fault.Busy) || !slices.Equal(tried, []string{"/rw-test/a", "/rw-test/b"}) {
		t.Errorf("%v; mounts were tried on %v", err, tried)
	}
	for _, want := range []string{"rw-test-crypt", "on /rw-test/a:", "the services stay stopped", "would miss /rw-test/a, /rw-test/a/below"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if hint := fault.Of(err).Hint; !strings.Contains(hint, "mount /rw-test/a, ") || !strings.Contains(hint, "systemctl start one.service two.service") {
		t.Errorf("hint: %s", hint)
	}
	if e := w.entry(); e.Outcome != journal.Unfinished || e.Step != stepUndoing || !isGuarded(t) {
		t.Errorf("%s %q, guard: %v: the next run must try again", e.Step, e.Outcome, isGuarded(t))
	}
}

// With the members mounted, the way back ends with the entry undone and without a guard, also where the set, which may
// have overflowed, cannot be mounted again.
func TestTheWayBackIsUndone(t *testing.T) {
	for _, refused := range [][]string{nil, {"/rw-test/set"}} {
		var tried []string
		w := walkOf(t, server(), "vg00/dat_s")
		w.systemd = &service.Systemd{}
		w.commands = command.NewRecorder(mounter{refused, &tried})
		w.state.Mounts, w.state.SetMounts = at("/rw-test/a"), at("/rw-test/set")
		begun(t, w, stepUnmounting)
		if err := w.undo(t.Context()); err != nil || !slices.Equal(tried, []string{"/rw-test/a", "/rw-test/set"}) {
			t.Errorf("%v; mounts were tried on %v", err, tried)
		}
		if e := w.entry(); e.Outcome != journal.Undone || isGuarded(t) || len(w.warnings) != len(refused) {
			t.Errorf("%q, guard: %v, warnings %q", e.Outcome, isGuarded(t), w.warnings)
		}
	}
}

// What is mounted in a member's place is not the member, and services would write there.
func TestAnotherFileSystemInAMembersPlaceIsNoMount(t *testing.T) {
	device := filepath.Join(t.TempDir(), "dat")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(253, 7))); err != nil {
		t.Fatal(err)
	}
	spec := filesystem.MountSpec{Source: device, Point: "/dat", Options: []string{"rw"}}
	for name, c := range map[string]struct {
		dev   filesystem.Dev
		flags string
		want  bool
	}{
		"the member":            {filesystem.NewDev(253, 7), "rw", true},
		"another volume":        {filesystem.NewDev(253, 8), "rw", false},
		"a file system in RAM":  {filesystem.NewDev(0, 44), "rw", false},
		"the member, read-only": {filesystem.NewDev(253, 7), "ro", false},
	} {
		mounts := []filesystem.Mount{{ID: 1, Dev: c.dev, Root: "/", Point: "/dat", Options: c.flags, Source: "x"}}
		if err := asIs(mounts, spec); (err == nil) != c.want || err != nil && !errors.Is(err, fault.MountFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bind mount with flags of its own may be there already when it is to be made: another mount of the file system has
// brought it along, for writing.
func TestABindMountThatWasBroughtAlongGetsItsFlags(t *testing.T) {
	whole, view := t.TempDir(), t.TempDir()
	mount := func(source, at, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, at, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount("tmpfs", whole, "tmpfs", unix.MS_NOSUID)
	mount(whole, view, "", unix.MS_BIND)
	w := &walk{state: &State{}}
	spec := filesystem.MountSpec{Bind: whole, Point: view, Options: []string{"ro", "noexec", "relatime"}}
	for range 2 {
		if err := w.mountOne(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		mounts, err := filesystem.Mounts()
		m, _ := filesystem.At(mounts, view)
		if err != nil || !hasFlags(mounts, spec) {
			t.Errorf("%s is mounted %s, %v", view, m.Options, err)
		}
	}
}
