package rollback

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// fill fills the file system of dir, which is small, until free is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() { _ = os.Remove(filler) }
}

// mountOnTest gives a rollback a mount on /rw-test/a, and returns the mount points that mount(8) is called for.
func mountOnTest(rb *rollback) (tried *[]string) {
	tried = &[]string{}
	rb.systemd = &service.Systemd{}
	rb.commands = command.NewRecorder(fakeMount{nil, tried})
	rb.state.Mounts, rb.state.Start = mountsAt("/rw-test/a"), true
	return tried
}

// newAtStep returns a rollback of vg00/dat, mounted on /rw-test/a, that has come to a step; tried collects the mount
// points that mount(8) is called for. The journal is on a small file system of its own, in dir.
func newAtStep(t *testing.T, step string) (rb *rollback, tried *[]string, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	rb = newAtMerge(t, server(), "vg00/dat_s")
	tried = mountOnTest(rb)
	setUpJournal(t, rb)
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	rb.run.Journal = j
	if err := errors.Join(rb.guard.install(), rb.run.Begin(Kind, "s", []string{"vg00"}, step, rb.state)); err != nil {
		t.Fatal(err)
	}
	return rb, tried, dir
}

// readEntry returns the entry as the journal has it; nil if there is none.
func readEntry(t *testing.T, rb *rollback) *journal.Entry {
	t.Helper()
	e, err := rb.run.Journal.Load(rb.entry().ID)
	if err != nil && !errors.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	return e
}

// Volumes that are rolled back are mounted and used even if that cannot be written to the journal, and a later run
// closes the entry.
func TestMergeAndStartGoesOnWithFullJournal(t *testing.T) {
	rb, tried, dir := newAtStep(t, stepMerging)
	free := fill(t, dir)
	if err := rb.mergeAndStart(t.Context()); err != nil || !slices.Equal(*tried, []string{"/rw-test/a"}) {
		t.Errorf("%v; mounts were tried on %v", err, *tried)
	}
	rb.steps.warnOfJournal()
	result := rb.answers.result(true, rb.entry())
	if err := rb.finish(t.Context()); err != nil || result.State != stateMerging ||
		len(result.Warnings) == 0 || !strings.Contains(result.Warnings[0], "journal") {
		t.Errorf("%v, %+v", err, result)
	}
	free()
	e := readEntry(t, rb)
	if e == nil || e.Step != stepMerging || e.Outcome != journal.Unfinished {
		t.Fatalf("the test proves nothing: %+v", e)
	}
	resumed, err := rb.server.reopen(rb.run, e)
	if err != nil {
		t.Fatal(err)
	}
	resumed.lvm, resumed.systemd, resumed.commands = rb.lvm, rb.systemd, rb.commands
	resumed.guard.forget = nil
	if err := resumed.settle(t.Context()); err != nil {
		t.Error(err)
	}
	if e := readEntry(t, rb); e == nil || e.Outcome != journal.Done || isGuarded(t, rb) {
		t.Errorf("%+v, guard: %v", e, isGuarded(t, rb))
	}
}

// Undoing a rollback ends with everything in use, and leaves no entry with which a boot would merge after all.
func TestAbortGoesOnWithFullJournal(t *testing.T) {
	for _, step := range []string{stepChecked, stepUnmounting, stepMerging, StepDeferred} {
		rb, tried, dir := newAtStep(t, step)
		free := fill(t, dir)
		why := fault.New(fault.Busy, "vg00/dat is open")
		if err := rb.abort(t.Context(), why); err != why || !slices.Equal(*tried, []string{"/rw-test/a"}) {
			t.Errorf("%s: %v; mounts were tried on %v", step, err, *tried)
		}
		got := rb.answers.result(directionOf(rb.entry().Step) != backward, rb.entry())
		if got.Changed || !strings.Contains(got.Msg, "did not roll back") {
			t.Errorf("%s: %+v", step, got)
		}
		free()
		if e := readEntry(t, rb); e != nil && e.Outcome != journal.Undone || isGuarded(t, rb) {
			t.Errorf("%s: %+v, guard: %v", step, e, isGuarded(t, rb))
		}
	}
}

// LVM refuses every merge, for example because it lacks disk space for its metadata archive. Then no merge has begun,
// the rollback is undone, and the fault must not say that other volumes are rolled back.
func TestMergeThatLVMRefusesHasNotBegun(t *testing.T) {
	f := server()
	rb := newDeferrable(t, f, "vg00/dat_s", "vg00/app_s")
	beginAt(t, rb, stepMerging)
	for range 2 { // lvconvert is run twice
		f.FailOn(errors.New("archive: No space left on device"), "lvconvert")
	}
	err := rb.mergeAndStart(t.Context())
	if !errors.Is(err, fault.MergeFailed) || !strings.Contains(err.Error(), "nothing was rolled back") ||
		strings.Contains(err.Error(), "rolled back already") {
		t.Errorf("%v", err)
	}
	if begun, err := rb.survey.hasBegun(t.Context()); begun || err != nil {
		t.Errorf("it has begun: %v %v", begun, err)
	}
}

// Disk space is checked before anything is changed, and the reserved space is used for the journal if the disk has
// filled since.
func TestReservedSpaceIsUsedForJournal(t *testing.T) {
	rb, _, dir := newAtStep(t, stepChecked)
	rb.server.JournalDir = dir
	if err := rb.steps.checkSpace(); err != nil {
		t.Fatal(err)
	}
	free := fill(t, dir)
	for name, try := range map[string]func() error{"check": rb.steps.checkSpace, "reserve": rb.steps.reserveSpace} {
		err := try()
		if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), dir) ||
			!strings.Contains(fault.Of(err).Hint, "df -h "+dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if rb.steps.releaseSpace() {
		t.Error("a refused rollback keeps room")
	}
	free()
	if err := rb.steps.reserveSpace(); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	if err := rb.run.Record(stepStopping, rb.state); err == nil {
		t.Error("the test proves nothing: there is room")
	}
	if err := rb.steps.record(stepStopping, rb.state); err != nil || readEntry(t, rb).Step != stepStopping {
		t.Errorf("%v, %+v", err, readEntry(t, rb))
	}
}

// LVM may be configured to keep its copies elsewhere (backup_dir, archive_dir); the space is needed there.
func TestSpaceIsCheckedInLVMBackupDirs(t *testing.T) {
	rb, _, dir := newAtStep(t, stepChecked)
	rb.steps.lvmBackupDirs = []string{dir}
	fill(t, dir)
	err := rb.steps.checkSpace()
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}
