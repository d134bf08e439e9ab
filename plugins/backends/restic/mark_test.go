package restic_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// recorded is what restic itself lists: the IDs of snapshots that are marks, and of those that are none.
func (w *world) recorded(t *testing.T) (marks, others []string) {
	t.Helper()
	out, err := command(w.option("repository"), "--no-lock", "--json", "snapshots").Output()
	must(t, err)
	var all []struct {
		ID   string   `json:"id"`
		Tags []string `json:"tags"`
	}
	must(t, json.Unmarshal(out, &all))
	for _, s := range all {
		if slices.ContainsFunc(s.Tags, func(tag string) bool { return strings.HasPrefix(tag, "rewind-incomplete=") }) {
			marks = append(marks, s.ID)
			continue
		}
		others = append(others, s.ID)
	}
	return marks, others
}

// busy has another restic store something for as long as the test runs, and returns when it has its lock.
func (w *world) busy(t *testing.T) {
	t.Helper()
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data) // never fails
	large := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, data, 0o600))
	other := command(w.option("repository"), "--limit-upload", "1", "backup", large)
	must(t, other.Start())
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	w.untilLocked(t)
}

func (w *world) incomplete(t *testing.T) backup.Stored {
	t.Helper()
	complete := w.tree.Roots
	w.tree.Roots = append(slices.Clone(complete), unreadable)
	defer func() { w.tree.Roots = complete }()
	stored, err := w.Store(t.Context(), w.config, w.tree, ignore)
	if f := fault.Of(err); f == nil || f.Code != fault.SourceUnreadable || len(fault.Each(err)) != 1 {
		t.Fatalf("got %v", err)
	}
	return stored
}

// An incomplete backup is listed as one although another host stores at the time: that keeps every exclusive lock out,
// and so restic from changing tags.
func TestIncompleteWhileAnotherStores(t *testing.T) {
	w := newWorld(t)
	w.busy(t)
	stored := w.incomplete(t)
	complete := w.store(t)
	for _, host := range []string{"db1", ""} {
		list, err := w.List(t.Context(), w.config, host)
		must(t, err)
		if len(list) != 2 {
			t.Fatalf("%q lists %+v", host, list)
		}
		for _, one := range list {
			if one.Incomplete != (one.ID == stored.ID) || one.ID != stored.ID && one.ID != complete.ID {
				t.Errorf("%q lists %+v", host, one)
			}
		}
	}
	marks, _ := w.recorded(t)
	if len(marks) != 1 {
		t.Fatalf("marks %v", marks)
	}
	err := w.Present(t.Context(), w.config, marks[0], ignore, func(context.Context, backup.Presented) error { return nil })
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("a mark is presented: %v", err)
	}
}

// What restic's own tools do leaves an incomplete backup incomplete: a retention that keeps it, a change of its tags.
func TestIncompleteStaysSo(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	w.tree.Time = instant.Add(time.Hour)
	w.incomplete(t)
	w.tree.Time = instant.Add(2 * time.Hour)
	w.incomplete(t)
	for _, args := range [][]string{{"forget", "--keep-last", "1"}, {"forget", "--tag", "rewind", "--keep-last", "1"}, {"tag", "--add", "mine", "--tag", "rewind"}} {
		if out, err := command(w.option("repository"), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		list, err := w.List(t.Context(), w.config, "")
		must(t, err)
		if len(list) != 2 || !list[0].Incomplete || list[1].Incomplete {
			t.Errorf("after %v: %+v", args, list)
		}
	}
}

// With a backup its mark goes, and so do those whose backups restic itself took away; others stay.
func TestForgetTakesTheMark(t *testing.T) {
	w := newWorld(t)
	first, second, kept := w.incomplete(t), w.incomplete(t), w.incomplete(t)
	if out, err := command(w.option("repository"), "forget", first.ID).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, w.Forget(t.Context(), w.config, second.ID))
	marks, others := w.recorded(t)
	if len(marks) != 1 || !slices.Equal(others, []string{kept.ID}) {
		t.Errorf("left: marks %v, others %v", marks, others)
	}
	if list, err := w.List(t.Context(), w.config, ""); err != nil || len(list) != 1 || !list[0].Incomplete {
		t.Errorf("%+v, %v", list, err)
	}
}
