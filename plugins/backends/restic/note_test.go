package restic

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// NotesDir is the directory of the notes in these tests, also in the process that the suite starts.
var NotesDir = filepath.Join(os.TempDir(), "rewind-restic-notes")

func init() { notesDir = NotesDir }

// killedBeforeMark runs restic, but fails when the mark is to be added, as if the run had been killed after the
// snapshot was made.
type killedBeforeMark struct{ command.Local }

func (d killedBeforeMark) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	if slices.ContainsFunc(c.Argv, func(arg string) bool { return strings.HasPrefix(arg, tagMark) }) {
		return command.Output{}, errors.New("killed")
	}
	return d.Local.Stream(ctx, c, line)
}

// newRepository returns the configuration of a new repository, and a tree with a file that cannot be read.
func newRepository(t *testing.T) (backup.Config, backup.Tree) {
	t.Helper()
	path, root := filepath.Join(t.TempDir(), "repository"), t.TempDir()
	errs := []error{os.CopyFS(path, os.DirFS("testdata/repository")), os.WriteFile(root+"/file", nil, 0o600)}
	for _, dir := range []string{"data", "index", "locks", "snapshots"} {
		errs = append(errs, os.Mkdir(filepath.Join(path, dir), 0o700))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	c := backup.Config{
		Options:     map[string]any{"repository": path, "cache": t.TempDir()},
		Environment: map[string]string{"RESTIC_PASSWORD": "canary-4f1d"}, Scratch: t.TempDir(),
	}
	return c, backup.Tree{Host: "db1", Set: "snap", Time: time.Now(), Roots: []string{root, "/sys/bus/workqueue"}}
}

// A snapshot that lacks files is never listed as complete, even if its run was killed before it could mark the
// snapshot. Settle marks it.
func TestSettleMarksBackupOfKilledRun(t *testing.T) {
	c, tree := newRepository(t)
	if _, err := (&Backend{run: killedBeforeMark{}}).Store(t.Context(), c, tree, func(backup.Progress) {}); err == nil {
		t.Fatal("a file that cannot be read was stored")
	}
	listed := func() backup.Stored {
		t.Helper()
		list, err := New().List(t.Context(), c, "db1")
		if err != nil || len(list) != 1 {
			t.Fatalf("listed: %+v, %v", list, err)
		}
		return list[0]
	}
	if !listed().Incomplete {
		t.Error("it is listed as complete")
	}
	left, err := (&Backend{run: command.Local{}}).open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := New().Settle(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if notes := left.notes().read(); len(notes) > 0 {
		t.Errorf("left: %+v", notes)
	}
	if !listed().Incomplete {
		t.Error("after Settle it is listed as complete")
	}
	tree.Roots, tree.Time = tree.Roots[:1], tree.Time.Add(time.Minute)
	stored, err := New().Store(t.Context(), c, tree, func(backup.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	list, err := New().List(t.Context(), c, "db1")
	if err != nil || len(list) != 2 || list[0].ID != stored.ID || list[0].Incomplete {
		t.Errorf("the next backup should be complete: %+v, %v", list, err)
	}
	if notes := left.notes().read(); len(notes) > 0 {
		t.Errorf("left after a complete backup: %+v", notes)
	}
}

// Settle does not remove the note of a run that is alive.
func TestSettleKeepsNotesOfLiveRun(t *testing.T) {
	c, tree := newRepository(t)
	alive, err := (&Backend{run: command.Local{}}).open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	one := note{Host: tree.Host, Tags: tags(tree, 1, c.Machine)}
	end, err := alive.notes().write(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if err := New().Settle(t.Context(), c); err != nil {
			t.Errorf("Settle: %v", err)
		}
		if notes := alive.notes().read(); len(notes) != want {
			t.Errorf("%d notes are there, want %d", len(notes), want)
		}
		if want == 1 {
			if err := end(false); err != nil {
				t.Fatal(err)
			}
		}
	}
	l, err := alive.notes().claim()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := alive.notes().write(ctx, one); fault.Of(err).Code != fault.Timeout {
		t.Errorf("a run begins while another settles: %v", err)
	}
}
