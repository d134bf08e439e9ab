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

// script is a restic 0.18 that makes a snapshot and says what the test says.
type script struct {
	backup error   // how storing ends
	marks  []error // how each attempt to mark it ends
	said   [][]string
	ctxs   []error // of each attempt to mark
	listed int     // how often it was asked for its snapshots
}

const scripted = "cfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89ecfa2e89e"

func (s *script) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "snapshots") {
		s.listed++
		return command.Output{Stdout: "[]"}, nil
	}
	return command.Output{Stdout: "restic 0.18.0 compiled with go1.24.4 on linux/amd64\n"}, nil
}

func (s *script) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	s.said = append(s.said, c.Argv)
	if slices.Contains(c.Argv, "--json") {
		line(`{"message_type":"summary","snapshot_id":"` + scripted + `"}`)
		return command.Output{}, s.backup
	}
	s.ctxs = append(s.ctxs, ctx.Err())
	err := s.marks[0]
	s.marks = s.marks[1:]
	return command.Output{}, err
}

func ended(rc int, stderr string) error {
	return &command.Error{Argv: []string{"restic"}, Code: rc, Stderr: stderr, Err: &exec.ExitError{}}
}

func (s *script) store(ctx context.Context, t *testing.T) (backup.Stored, error) {
	t.Helper()
	b := &Backend{run: s}
	c := backup.Config{
		Options:     map[string]any{"repository": "rest:http://x/", "cache": ""},
		Environment: map[string]string{"RESTIC_PASSWORD": "canary"},
	}
	if _, err := b.Check(ctx, c); err != nil { // as every run does
		t.Fatal(err)
	}
	return b.Store(ctx, c, backup.Tree{Host: "h", Roots: []string{t.TempDir()}}, func(backup.Progress) {})
}

// Exit code 3 means that files are missing, whether or not anything on a line of its own was understood.
func TestIncompleteWithoutANamedFile(t *testing.T) {
	s := &script{backup: ended(3, "Warning: at least one source file could not be read, canary"), marks: []error{nil}}
	stored, err := s.store(t.Context(), t)
	f := fault.Of(err)
	if f == nil || f.Code != fault.SourceUnreadable || f.Hint == "" || f.Facts["id"] != scripted || f.Facts["paths"] == nil {
		t.Fatalf("got %v", err)
	}
	if !stored.Incomplete || stored.ID != scripted || len(s.said) != 2 || !slices.Contains(s.said[1], "rewind-incomplete="+scripted) {
		t.Errorf("stored %+v by %q", stored, s.said)
	}
	if got := f.Error() + f.Facts["stderr"].(string); got != (backup.Config{Environment: map[string]string{"x": "canary"}}).Hide(got) {
		t.Errorf("it tells a secret: %s", got)
	}
}

// Of what Check was told Store knows the backup's number.
func TestCompleteTakesOneCall(t *testing.T) {
	s := &script{}
	if stored, err := s.store(t.Context(), t); err != nil || stored.Incomplete || len(s.said) != 1 || s.listed != 1 {
		t.Errorf("%+v, %v, by %q, listed %d times", stored, err, s.said, s.listed)
	}
}

// A lock that is in the way of the mark is waited for.
func TestMarkWaitsForALock(t *testing.T) {
	locked := ended(11, "repository is already locked exclusively by PID 5 on h")
	s := &script{backup: ended(3, ""), marks: []error{locked, nil}}
	if _, err := s.store(t.Context(), t); len(fault.Each(err)) != 1 || len(s.marks) != 0 {
		t.Errorf("%v, left %v", err, s.marks)
	}
}

// A run that was asked to end marks the backup all the same, and waits for nothing. What cannot be marked is said, with
// how to take it out of the list.
func TestMarkWhenEnding(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &script{backup: ended(3, ""), marks: []error{ended(11, "repository is already locked exclusively by PID 5 on h"), nil}}
	stored, err := s.store(ctx, t)
	if !stored.Incomplete || !errors.Is(err, fault.RepositoryLocked) || !errors.Is(err, fault.SourceUnreadable) || len(s.marks) != 1 {
		t.Fatalf("%+v, %v, left %v", stored, err, s.marks)
	}
	if s.ctxs[0] != nil {
		t.Errorf("it was marked with a context that had ended: %v", s.ctxs[0])
	}
	if last := fault.Of(fault.Each(err)[1]); last.Hint != "take it out of the list: `restic forget "+scripted+"`" {
		t.Errorf("hint %q", last.Hint)
	}
}
