package rollback

import (
	"errors"
	"os/signal"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// full has every write to a file fail until give is called, as on a disk without room (setrlimit(2), RLIMIT_FSIZE).
func full(t *testing.T) (give func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	give = func() {
		signal.Reset(unix.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(give)
	return give
}

// mounted is a rollback of vg00/dat, mounted on /rw-test/a, that has come to a step. tried are the mounts that were made.
func mounted(t *testing.T, step string) (w *walk, tried *[]string) {
	t.Helper()
	tried = &[]string{}
	w = walkOf(t, server(), "vg00/dat_s")
	w.systemd = &service.Systemd{}
	w.commands = command.NewRecorder(mounter{nil, tried})
	w.state.Mounts, w.state.Start = at("/rw-test/a"), true
	begun(t, w, step)
	return w, tried
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
	w, tried := mounted(t, stepMerging)
	give := full(t)
	if err := w.ascend(t.Context()); err != nil || !slices.Equal(*tried, []string{"/rw-test/a"}) {
		t.Errorf("%v; mounts were tried on %v", err, *tried)
	}
	w.warn()
	result := w.result(true, w.entry())
	if err := w.finish(t.Context()); err != nil || result.Data["state"] != merging || len(result.Warnings) == 0 || !strings.Contains(result.Warnings[0], "journal") {
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
		w, tried := mounted(t, step)
		give := full(t)
		why := fault.New(fault.Busy, "vg00/dat is open")
		if err := w.back(t.Context(), why); err != why || !slices.Equal(*tried, []string{"/rw-test/a"}) {
			t.Errorf("%s: %v; mounts were tried on %v", step, err, *tried)
		}
		if got := w.result(wayOf(w.entry().Step) != turnsBack, w.entry()); got.Changed || !strings.Contains(got.Msg, "did not roll back") {
			t.Errorf("%s: %+v", step, got)
		}
		give()
		if e := inJournal(t, w); e != nil && e.Outcome != journal.Undone || isGuarded(t) {
			t.Errorf("%s: %+v, guard: %v", step, e, isGuarded(t))
		}
	}
}

// LVM refuses every merge, as it does without room for its archive: nothing has begun, so the way is back, and nothing says
// that other volumes are rolled back.
func TestAMergeThatLVMDoesNotBeginIsTurnedBack(t *testing.T) {
	f := server()
	w := put(t, f, "vg00/dat_s", "vg00/app_s")
	begun(t, w, stepMerging)
	for range 2 { // LVM is asked twice
		f.FailOn(errors.New("archive: No space left on device"), "lvconvert")
	}
	err := w.ascend(t.Context())
	if !errors.Is(err, fault.MergeFailed) || !strings.Contains(err.Error(), "nothing was rolled back") || strings.Contains(err.Error(), "rolled back already") {
		t.Errorf("%v", err)
	}
	if begun, err := w.hasBegun(t.Context()); begun || err != nil {
		t.Errorf("it has begun: %v %v", begun, err)
	}
}
