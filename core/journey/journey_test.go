package journey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
)

// runsWith returns a function that makes one more run, all with one journal and one directory of locks.
func runsWith(t *testing.T, h Handlers) func() *Run {
	t.Helper()
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	locksOfRun := locksIn(t, time.Minute)
	return func() *Run {
		return &Run{Journal: j, handlers: h, id: journal.NewID(), dir: t.TempDir(), locks: locksOfRun()}
	}
}

// recordSettled returns a Handler that appends the set of each entry that it settles to list, and then fails with err
// if that is not nil.
func recordSettled(list *[]string, err error) Handler {
	return Handler{Settle: func(_ context.Context, t *Run, e *journal.Entry) error {
		*list = append(*list, e.Set)
		if err != nil {
			return err
		}
		return t.Finish("undone", journal.Undone, nil)
	}}
}

func begin(t *testing.T, run *Run, kind, set string, groups ...string) {
	t.Helper()
	if err := run.Begin(kind, set, groups, "half", nil); err != nil {
		t.Fatal(err)
	}
}

func TestLockSettlesUnfinishedEntriesOfItsGroups(t *testing.T) {
	var list []string
	newRun := runsWith(t, Handlers{"merge": recordSettled(&list, nil)})
	begin(t, newRun(), "merge", "in-vg01", "vg00", "vg01")
	begin(t, newRun(), "merge", "in-vg02", "vg02")
	last := newRun()
	stale, err := last.Lock(t.Context(), []string{"vg01"}, "x", time.Now())
	if err != nil || !stale {
		t.Fatal(stale, err)
	}
	if diff := cmp.Diff([]string{"in-vg01"}, list); diff != "" {
		t.Error(diff)
	}
	if last.locks.held["vg00"] == nil {
		t.Error("settled without the lock of its other group")
	}
	if last.Entry() != nil {
		t.Error("the settled entry became the run's own entry")
	}
	last.Unlock()
	if stale, err = newRun().Lock(t.Context(), []string{"vg03"}, "x", time.Now()); stale || err != nil {
		t.Errorf("nothing to settle: %v %v", stale, err)
	}
}

// A removal that was interrupted after its last snapshot was gone left no volume that tells the set's groups.
func TestLockSettlesUnfinishedEntriesOfItsSet(t *testing.T) {
	var list []string
	newRun := runsWith(t, Handlers{"snapshot": recordSettled(&list, nil)})
	begin(t, newRun(), "snapshot", "s", "vg00")
	begin(t, newRun(), "snapshot", "other", "vg00")
	run := newRun()
	if stale, err := run.Lock(t.Context(), []string{SetLock("s")}, "x", time.Now()); err != nil || !stale {
		t.Fatal(stale, err)
	}
	if diff := cmp.Diff([]string{"s"}, list); diff != "" || run.locks.held["vg00"] == nil {
		t.Errorf("%s, with the locks %v", diff, run.locks.held)
	}
}

func TestLockFailsIfAnEntryCannotBeSettled(t *testing.T) {
	var list []string
	newRun := runsWith(t, Handlers{"merge": recordSettled(&list, fault.New(fault.Busy, "somebody is in /dat"))})
	begin(t, newRun(), "merge", "snap", "vg00")
	_, err := newRun().Lock(t.Context(), []string{"vg00"}, "x", time.Now())
	want := `earlier merge of set "snap", interrupted at "half"`
	if fault.Of(err).Code != fault.Busy || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	newRun = runsWith(t, nil)
	begin(t, newRun(), "unknown-kind", "snap", "vg00")
	if _, err = newRun().Lock(t.Context(), []string{"vg00"}, "x", time.Now()); !errors.Is(err, fault.Interrupted) {
		t.Error(err)
	}
}

func TestLockDoesNotSettleTheRunsOwnEntry(t *testing.T) {
	var list []string
	run := runsWith(t, Handlers{"merge": recordSettled(&list, nil)})()
	begin(t, run, "merge", "snap", "vg00")
	if _, err := run.Lock(t.Context(), []string{"vg00"}, "x", time.Now()); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

func TestEntriesOfARunHaveDifferentIDs(t *testing.T) {
	run := runsWith(t, nil)()
	begin(t, run, "merge", "snap", "vg00")
	first := run.Entry()
	begin(t, run, "snapshot", "snap", "vg00")
	if first.ID != run.id || run.Entry().ID == first.ID {
		t.Errorf("%s and %s", first.ID, run.Entry().ID)
	}
}

// The answer goes through a file. Writing and reading it must lose nothing.
func TestAnswerIsReadAsItWasGiven(t *testing.T) {
	run := runsWith(t, nil)()
	result := ansible.Result{Changed: true, Msg: "rolled back",
		Data:     map[string]any{"downtime_ms": 1 << 60, "state": "merged"},
		Warnings: []string{"careful"}, Commands: []command.Record{{Argv: []string{"lvm", "lvs"}, MS: 7}}}
	busy := fault.New(fault.Busy, "held open by %s", "bash").WithHint("end it").
		With("holders", []map[string]any{{"pid": 812}})
	if err := run.Answer(result, busy); err != nil {
		t.Fatal(err)
	}
	got, err := readResult(run.dir, run.id)
	f := fault.Of(err)
	if f.Code != fault.Busy || f.Msg != "held open by bash" || f.Hint != "end it" || f.Facts["holders"] == nil {
		t.Errorf("%+v", f)
	}
	if !got.Changed || got.Msg != "rolled back" || got.Data["downtime_ms"] != json.Number("1152921504606846976") ||
		len(got.Commands) != 1 || got.Warnings[0] != "careful" {
		t.Errorf("%+v", got)
	}
	if err := run.Answer(result, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := readResult(run.dir, run.id); err != nil {
		t.Errorf("an answer without a failure is read as %v", err)
	}
}

func TestProgressIsReadAsItWasGiven(t *testing.T) {
	run := runsWith(t, nil)()
	run.Progress("merging", 42)
	var got Progress
	showProgress(run.dir, func(p Progress) { got = p })
	if got != (Progress{Label: "merging", Percent: 42}) {
		t.Errorf("%+v", got)
	}
	showProgress(t.TempDir(), func(p Progress) { t.Errorf("without a file: %+v", p) })
	(&Run{}).Progress("at boot nobody waits", 1) // must not fail
}

func TestReadStatus(t *testing.T) {
	dir := t.TempDir()
	if s, ok := readStatus(dir); ok {
		t.Errorf("of a run whose directory was removed: %+v", s)
	}
	request := `{"kind":"backup","title":"back up with restic","request":{"volumes":["/dat"]}}`
	if err := replaceFile(filepath.Join(dir, "request"), []byte(request)); err != nil {
		t.Fatal(err)
	}
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, "request"), begun, begun); err != nil {
		t.Fatal(err)
	}
	run, half := &Run{dir: dir}, 50.0
	for _, c := range []struct {
		told Progress
		want Status
	}{
		{Progress{}, Status{}},
		{Progress{Label: "waiting for vg00", Percent: -1}, Status{Label: "waiting for vg00"}},
		{Progress{Label: "storing", Percent: 50, Bytes: 7}, Status{Label: "storing", Percent: &half, Bytes: 7}},
	} {
		if c.told != (Progress{}) {
			run.Tell(c.told)
		}
		c.want.ID, c.want.Unit = filepath.Base(dir), "rewind-"+filepath.Base(dir)+".service"
		c.want.Kind, c.want.Title, c.want.Begun = "backup", "back up with restic", "2026-01-02T03:04:05Z"
		got, ok := readStatus(dir)
		if diff := cmp.Diff(c.want, got); !ok || diff != "" {
			t.Errorf("%+v:\n%s", c.told, diff)
		}
	}
}

func TestWatchFor(t *testing.T) {
	for name, before := range map[string]bool{"exists before": true, "appears later": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "result")
			write := func() {
				if err := replaceFile(path, []byte("x")); err != nil {
					t.Error(err)
				}
			}
			if before {
				write()
			}
			appeared, changed, stop := watchFor(path)
			defer stop()
			if !before {
				<-changed // the first value, from the start
				if err := replaceFile(path+".other", nil); err != nil {
					t.Fatal(err)
				}
				<-changed
				write()
			}
			select {
			case <-appeared:
			case <-time.After(10 * time.Second):
				t.Error("the file was not noticed")
			}
		})
	}
}

// Where containers use up what the kernel has for watching files, a caller must still learn what its run came to. Here
// the directory cannot be watched because it does not exist yet.
func TestWatchForWithoutInotify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	appeared, changed, stop := watchFor(filepath.Join(dir, "result"))
	defer stop()
	for range 2 {
		<-changed
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), replaceFile(filepath.Join(dir, "result"), nil)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-appeared:
	case <-time.After(10 * time.Second):
		t.Error("the file was not noticed")
	}
}

func TestExtendSendsMicroseconds(t *testing.T) {
	var sent string
	run := &Run{notify: func(s string) { sent = s }}
	run.Extend(90 * time.Second)
	if sent != "EXTEND_TIMEOUT_USEC=90000000" {
		t.Error(sent)
	}
}

func TestSecretIsReadOnceAndRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := writeSecret(dir, map[string]string{"PASSWORD": "swordfish"}); err != nil {
		t.Fatal(err)
	}
	run := &Run{dir: dir}
	if err := run.takeSecret(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, secretFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the secret's file is still there: %v", err)
	}
	var got map[string]string
	if err := run.Secret(&got); err != nil || got["PASSWORD"] != "swordfish" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := (&Run{dir: dir}).takeSecret(); err != nil {
		t.Errorf("without a secret: %v", err)
	}
}
