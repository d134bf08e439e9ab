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

// fakeMount is a mount(8) that fails for some mount points and records the mount points that it is called for.
type fakeMount struct {
	fails []string
	tried *[]string
}

func (m fakeMount) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	point := c.Argv[len(c.Argv)-1]
	*m.tried = append(*m.tried, point)
	if slices.Contains(m.fails, point) {
		return command.Output{}, &command.Error{
			Argv: c.Argv, Code: 32, Stderr: "wrong fs type", Err: errors.New("exit status 32"),
		}
	}
	return command.Output{}, nil
}

// setUpJournal gives a rollback a journal, and temporary directories for units and the other files that it writes.
func setUpJournal(t *testing.T, rb *rollback) {
	t.Helper()
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	rb.server.UnitDir, rb.server.RuntimeDir, rb.server.JournalDir = t.TempDir(), t.TempDir(), t.TempDir()
	rb.steps.lvmBackupDirs = []string{t.TempDir()}
	rb.run = &journey.Run{Journal: j}
}

// beginAt brings a rollback to a step, with its journal entry and its guard.
func beginAt(t *testing.T, rb *rollback, step string) {
	t.Helper()
	setUpJournal(t, rb)
	if err := rb.guard.install(); err != nil {
		t.Fatal(err)
	}
	if err := rb.run.Begin(Kind, "s", []string{"vg00"}, step, rb.state); err != nil {
		t.Fatal(err)
	}
}

// isGuarded reports whether the boot guard is installed.
func isGuarded(t *testing.T, rb *rollback) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(rb.server.UnitDir, guardUnit))
	return err == nil
}

// mountsAt returns mounts on these mount points.
func mountsAt(points ...string) (specs []filesystem.MountSpec) {
	for _, p := range points {
		specs = append(specs, filesystem.MountSpec{Source: "/dev/vg00/x", Point: p, Type: "xfs"})
	}
	return specs
}

// If a mount fails, services must not start, because they would write into the directory below the mount point. A start
// would panic in this test, because there is no systemd.
func TestAbortLeavesServicesStoppedIfMountFails(t *testing.T) {
	var tried []string
	rb := newAtMerge(t, server(), "vg00/dat_s", "vg00/app_s")
	rb.systemd = &service.Systemd{}
	rb.commands = command.NewRecorder(fakeMount{[]string{"/rw-test/a"}, &tried})
	rb.state.Mounts = mountsAt("/rw-test/a", "/rw-test/a/below", "/rw-test/b")
	rb.state.SetMounts = mountsAt("/rw-test/set")
	rb.state.Members[1].Crypt = "rw-test-crypt" // no crypttab has a key for it
	rb.state.Services = service.Plan{Active: []string{"one.service", "two.service"}}
	beginAt(t, rb, stepUnmounting)

	err := rb.abort(t.Context(), fault.New(fault.Busy, "vg00/dat is open"))
	if !errors.Is(err, fault.Busy) || !slices.Equal(tried, []string{"/rw-test/a", "/rw-test/b"}) {
		t.Errorf("%v; mounts were tried on %v", err, tried)
	}
	for _, want := range []string{
		"rw-test-crypt", "on /rw-test/a:", "the services stay stopped", "would miss /rw-test/a, /rw-test/a/below",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	hint := fault.Of(err).Hint
	if !strings.Contains(hint, "mount /rw-test/a, ") ||
		!strings.Contains(hint, "systemctl start one.service two.service") {
		t.Errorf("hint: %s", hint)
	}
	if e := rb.entry(); e.Outcome != journal.Unfinished || e.Step != stepUndoing || !isGuarded(t, rb) {
		t.Errorf("%s %q, guard: %v: the next run must try again", e.Step, e.Outcome, isGuarded(t, rb))
	}
}

// If the members are mounted again, undo closes the entry and removes the guard, even if a snapshot, which may have
// overflowed, cannot be mounted again.
func TestUndoClosesEntryAndRemovesGuard(t *testing.T) {
	for _, refused := range [][]string{nil, {"/rw-test/set"}} {
		var tried []string
		rb := newAtMerge(t, server(), "vg00/dat_s")
		rb.systemd = &service.Systemd{}
		rb.commands = command.NewRecorder(fakeMount{refused, &tried})
		rb.state.Mounts, rb.state.SetMounts = mountsAt("/rw-test/a"), mountsAt("/rw-test/set")
		beginAt(t, rb, stepUnmounting)
		if err := rb.undo(t.Context()); err != nil || !slices.Equal(tried, []string{"/rw-test/a", "/rw-test/set"}) {
			t.Errorf("%v; mounts were tried on %v", err, tried)
		}
		if e := rb.entry(); e.Outcome != journal.Undone || isGuarded(t, rb) || len(rb.warnings) != len(refused) {
			t.Errorf("%q, guard: %v, warnings %q", e.Outcome, isGuarded(t, rb), rb.warnings)
		}
	}
}

// A mount of something else at a member's mount point does not count as the member's mount, because services would
// write to it.
func TestCheckMountedRefusesOtherFileSystem(t *testing.T) {
	device := filepath.Join(t.TempDir(), "dat")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(253, 7))); err != nil {
		t.Fatal(err)
	}
	rb := newParts(&base{server: thisServer()})
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
		err := rb.volumes.checkMounted(mounts, spec)
		if (err == nil) != c.want || err != nil && !errors.Is(err, fault.MountFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bind mount with flags of its own may already be there when it is to be made: the mount of the file system was
// propagated to its mount point, without these flags.
func TestPropagatedBindMountGetsItsFlags(t *testing.T) {
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
	rb := newParts(&base{server: thisServer(), state: &State{}})
	spec := filesystem.MountSpec{Bind: whole, Point: view, Options: []string{"ro", "noexec", "relatime"}}
	for range 2 {
		if err := rb.volumes.mountOne(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		mounts, err := filesystem.Mounts()
		m, _ := filesystem.At(mounts, view)
		if err != nil || !hasFlags(mounts, spec) {
			t.Errorf("%s is mounted %s, %v", view, m.Options, err)
		}
	}
}
