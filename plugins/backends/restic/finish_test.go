package restic

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// scriptedRestic plays a restic 0.18 that makes a snapshot, and fails as the test says.
type scriptedRestic struct {
	backup error      // the error of storing
	marks  []error    // the error of each attempt to add the mark
	calls  [][]string // the arguments of each call of Stream
	ctxs   []error    // the context's error at each attempt to add the mark
	listed int        // how often the snapshots were listed
}

const scriptedID = "cfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89e"

func (s *scriptedRestic) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "snapshots") {
		s.listed++
		return command.Output{Stdout: "[]"}, nil
	}
	return command.Output{Stdout: "restic 0.18.0 compiled with go1.24.4 on linux/amd64\n"}, nil
}

func (s *scriptedRestic) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	s.calls = append(s.calls, c.Argv)
	if slices.Contains(c.Argv, "--json") {
		line(`{"message_type":"summary","snapshot_id":"` + scriptedID + `"}`)
		return command.Output{}, s.backup
	}
	s.ctxs = append(s.ctxs, ctx.Err())
	err := s.marks[0]
	s.marks = s.marks[1:]
	return command.Output{}, err
}

func exitError(rc int, stderr string) error {
	return &command.Error{Argv: []string{"restic"}, Code: rc, Stderr: stderr, Err: &exec.ExitError{}}
}

func (s *scriptedRestic) store(ctx context.Context, t *testing.T) (backup.Stored, error) {
	t.Helper()
	b := &Backend{run: s}
	c := backup.Config{
		Options:     map[string]any{"repository": "rest:http://x/", "cache": ""},
		Environment: map[string]string{"RESTIC_PASSWORD": "canary"},
	}
	if _, err := b.Check(ctx, c); err != nil { // as in every run
		t.Fatal(err)
	}
	return b.Store(ctx, c, backup.Tree{Host: "h", Roots: []string{t.TempDir()}}, func(backup.Progress) {})
}

// Exit code 3 means that files are missing, even if no line of the output names one.
func TestIncompleteWithoutNamedFile(t *testing.T) {
	s := &scriptedRestic{backup: exitError(3, "Warning: at least one source file could not be read, canary"),
		marks: []error{nil}}
	stored, err := s.store(t.Context(), t)
	f := fault.Of(err)
	if f == nil || f.Code != fault.SourceUnreadable || f.Hint == "" || f.Facts["id"] != scriptedID ||
		f.Facts["paths"] == nil {
		t.Fatalf("got %v", err)
	}
	if !stored.Incomplete || stored.ID != scriptedID || len(s.calls) != 2 ||
		!slices.Contains(s.calls[1], "rewind-incomplete="+scriptedID) {
		t.Errorf("stored %+v by %q", stored, s.calls)
	}
	c := backup.Config{Environment: map[string]string{"x": "canary"}}
	if got := f.Error() + f.Facts["stderr"].(string); got != c.Hide(got) {
		t.Errorf("it contains a secret: %s", got)
	}
}

// Store needs no list of its own for the sequence number: it uses the list of Check.
func TestCompleteStoreTakesOneCall(t *testing.T) {
	s := &scriptedRestic{}
	if stored, err := s.store(t.Context(), t); err != nil || stored.Incomplete || len(s.calls) != 1 || s.listed != 1 {
		t.Errorf("%+v, %v, by %q, listed %d times", stored, err, s.calls, s.listed)
	}
}

// If a lock is in the way of the mark, Store waits for it.
func TestMarkWaitsForLock(t *testing.T) {
	locked := exitError(11, "repository is already locked exclusively by PID 5 on h")
	s := &scriptedRestic{backup: exitError(3, ""), marks: []error{locked, nil}}
	if _, err := s.store(t.Context(), t); len(fault.Each(err)) != 1 || len(s.marks) != 0 {
		t.Errorf("%v, left %v", err, s.marks)
	}
}

// A run that was asked to end marks the backup all the same, but waits for no lock. If it cannot mark the backup, the
// hint says how to remove it from the list.
func TestCanceledStoreMarksWithoutWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &scriptedRestic{backup: exitError(3, ""),
		marks: []error{exitError(11, "repository is already locked exclusively by PID 5 on h"), nil}}
	stored, err := s.store(ctx, t)
	if !stored.Incomplete || !errors.Is(err, fault.RepositoryLocked) || !errors.Is(err, fault.SourceUnreadable) ||
		len(s.marks) != 1 {
		t.Fatalf("%+v, %v, left %v", stored, err, s.marks)
	}
	if s.ctxs[0] != nil {
		t.Errorf("it was marked with a context that had ended: %v", s.ctxs[0])
	}
	if last := fault.Of(fault.Each(err)[1]); last.Hint != "take it out of the list: `restic forget "+scriptedID+"`" {
		t.Errorf("hint %q", last.Hint)
	}
}
