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

// full leaves no room in the directory, a small file system of its own, until give is called.
func full(t *testing.T, dir string) (give func()) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() { _ = os.Remove(filler) }
}

// mounted is a rollback of vg00/dat, mounted on /rw-test/a, that has come to a step. tried are the mounts that were
// made. Its journal lies on a file system of its own, in dir.
func mounted(t *testing.T, step string) (w *walk, tried *[]string, dir string) {
	t.Helper()
	dir, tried = t.TempDir(), &[]string{}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	w = walkOf(t, server(), "vg00/dat_s")
	w.systemd = &service.Systemd{}
	w.commands = command.NewRecorder(mounter{nil, tried})
	w.state.Mounts, w.state.Start = at("/rw-test/a"), true
	journaled(t, w)
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.trip.Journal = j
	if err := errors.Join(w.installGuard(), w.trip.Begin(Kind, "s", []string{"vg00"}, step, w.state)); err != nil {
		t.Fatal(err)
	}
	return w, tried, dir
}

// inJournal is the entry as the journal has it; nil without one.
func inJournal(t *testing.T, w *walk) *journal.Entry {
	t.Helper()
	e, err := w.trip.Journal.Load(w.entry().ID)
	if err != nil && !errors.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	return e
}

// Volumes that are rolled back are mounted and used, whatever becomes of the record of it; and a later run closes it.
func TestTheWayOnDoesNotWaitForTheJournal(t *testing.T) {
	w, tried, dir := mounted(t, stepMerging)
	give := full(t, dir)
	if err := w.ascend(t.Context()); err != nil || !slices.Equal(*tried, []string{"/rw-test/a"}) {
		t.Errorf("%v; mounts were tried on %v", err, *tried)
	}
	w.warn()
	result := w.result(true, w.entry())
	if err := w.finish(t.Context()); err != nil || result.Data["state"] != merging ||
		len(result.Warnings) == 0 || !strings.Contains(result.Warnings[0], "journal") {
		t.Errorf("%v, %+v", err, result)
	}
	give()
	e := inJournal(t, w)
	if e == nil || e.Step != stepMerging || e.Outcome != journal.Unfinished {
		t.Fatalf("the test proves nothing: %+v", e)
	}
	next, err := reopen(w.trip, e)
	if err != nil {
		t.Fatal(err)
	}
	next.lvm, next.systemd, next.commands, next.atOnce = w.lvm, w.systemd, w.commands, nil
	next.protected, next.writeProtect = w.protected, w.writeProtect
	next.forget = nil
	if err := next.settle(t.Context()); err != nil {
		t.Error(err)
	}
	if e := inJournal(t, w); e == nil || e.Outcome != journal.Done || isGuarded(t) {
		t.Errorf("%+v, guard: %v", e, isGuarded(t))
	}
}

// The way back ends with everything in use, and with no record that has a boot merge after all.
func TestTheWayBackDoesNotWaitForTheJournal(t *testing.T) {
	for _, step := range []string{stepChecked, stepUnmounting, stepMerging, StepDeferred} {
		w, tried, dir := mounted(t, step)
		give := full(t, dir)
		why := fault.New(fault.Busy, "vg00/dat is open")
		if err := w.back(t.Context(), why); err != why || !slices.Equal(*tried, []string{"/rw-test/a"}) {
			t.Errorf("%s: %v; mounts were tried on %v", step, err, *tried)
		}
		got := w.result(wayOf(w.entry().Step) != turnsBack, w.entry())
		if got.Changed || !strings.Contains(got.Msg, "did not roll back") {
			t.Errorf("%s: %+v", step, got)
		}
		give()
		if e := inJournal(t, w); e != nil && e.Outcome != journal.Undone || isGuarded(t) {
			t.Errorf("%s: %+v, guard: %v", step, e, isGuarded(t))
		}
	}
}

// LVM refuses every merge, as it does without room for its archive: nothing has begun, so the way is back, and
// nothing says that other volumes are rolled back.
func TestAMergeThatLVMDoesNotBeginIsTurnedBack(t *testing.T) {
	f := server()
	w := put(t, f, "vg00/dat_s", "vg00/app_s")
	begun(t, w, stepMerging)
	for range 2 { // LVM is asked twice
		f.FailOn(errors.New("archive: No space left on device"), "lvconvert")
	}
	err := w.ascend(t.Context())
	if !errors.Is(err, fault.MergeFailed) || !strings.Contains(err.Error(), "nothing was rolled back") ||
		strings.Contains(err.Error(), "rolled back already") {
		t.Errorf("%v", err)
	}
	if begun, err := w.hasBegun(t.Context()); begun || err != nil {
		t.Errorf("it has begun: %v %v", begun, err)
	}
}

// Room is looked for before anything is changed, and what is set aside is there for the journal when a disk has
// filled since.
func TestRoomForTheJournalIsSetAside(t *testing.T) {
	w, _, dir := mounted(t, stepChecked)
	journalDir = dir
	if err := w.checkRoom(); err != nil {
		t.Fatal(err)
	}
	give := full(t, dir)
	for name, try := range map[string]func() error{"check": w.checkRoom, "reserve": w.reserve} {
		err := try()
		if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), dir) ||
			!strings.Contains(fault.Of(err).Hint, "df -h "+dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.release() {
		t.Error("a refused rollback keeps room")
	}
	give()
	if err := w.reserve(); err != nil {
		t.Fatal(err)
	}
	full(t, dir)
	if err := w.trip.Record(stepStopping, w.state); err == nil {
		t.Error("the test proves nothing: there is room")
	}
	if err := w.record(stepStopping, w.state); err != nil || inJournal(t, w).Step != stepStopping {
		t.Errorf("%v, %+v", err, inJournal(t, w))
	}
}

// An administrator may have LVM keep its copies elsewhere (backup_dir, archive_dir): the room is needed there.
func TestRoomForLVMsCopiesIsWhereLVMKeepsThem(t *testing.T) {
	w, _, dir := mounted(t, stepChecked)
	w.copies = []string{dir}
	full(t, dir)
	err := w.checkRoom()
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}
