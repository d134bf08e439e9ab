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

// listSnapshots returns the IDs that restic itself lists: those of marks, and those of other snapshots.
func (fx *fixture) listSnapshots(t *testing.T) (marks, others []string) {
	t.Helper()
	out, err := resticCommand(fx.option("repository"), "--no-lock", "--json", "snapshots").Output()
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

// storeInBackground starts another restic, which stores something for as long as the test runs, and returns when that
// one has its lock.
func (fx *fixture) storeInBackground(t *testing.T) {
	t.Helper()
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data) // never fails
	large := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, data, 0o600))
	other := resticCommand(fx.option("repository"), "--limit-upload", "1", "backup", large)
	must(t, other.Start())
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	fx.waitUntilLocked(t)
}

// storeIncomplete stores the tree together with files that cannot be read. storeIncomplete stores the tree together
// with files that cannot be read.
func (fx *fixture) storeIncomplete(t *testing.T) backup.Stored {
	t.Helper()
	complete := fx.tree.Roots
	fx.tree.Roots = append(slices.Clone(complete), unreadableRoot)
	defer func() { fx.tree.Roots = complete }()
	stored, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	if f := fault.Of(err); f == nil || f.Code != fault.SourceUnreadable || len(fault.Each(err)) != 1 {
		t.Fatalf("got %v", err)
	}
	return stored
}

// An incomplete backup is listed as incomplete even if another host stores at the same time. Then nobody gets an
// exclusive lock, so restic cannot change the tags of the backup.
func TestIncompleteIsMarkedWhileAnotherStores(t *testing.T) {
	fx := newFixture(t)
	fx.storeInBackground(t)
	stored := fx.storeIncomplete(t)
	complete := fx.store(t)
	for _, host := range []string{"db1", ""} {
		list, err := fx.List(t.Context(), fx.config, host)
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
	marks, _ := fx.listSnapshots(t)
	if len(marks) != 1 {
		t.Fatalf("marks %v", marks)
	}
	err := fx.Present(t.Context(), fx.config, marks[0], ignoreProgress, func(context.Context, backup.Presented) error {
		return nil
	})
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("a mark is presented: %v", err)
	}
}

// An incomplete backup stays incomplete if restic itself is used to forget other snapshots or to change its tags.
func TestMarkSurvivesForgetAndTag(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	fx.tree.Time = instant.Add(time.Hour)
	fx.storeIncomplete(t)
	fx.tree.Time = instant.Add(2 * time.Hour)
	fx.storeIncomplete(t)
	_, err := fx.List(t.Context(), fx.config, "") // as the run does that has stored a backup
	must(t, err)
	for _, args := range [][]string{{"forget", "--keep-last", "1"}, {"forget", "--tag", "rewind", "--keep-last", "1"},
		{"tag", "--add", "mine", "--tag", "rewind"}} {
		if out, err := resticCommand(fx.option("repository"), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		list, err := fx.List(t.Context(), fx.config, "")
		must(t, err)
		if len(list) != 2 || !list[0].Incomplete || list[1].Incomplete {
			t.Errorf("after %v: %+v", args, list)
		}
	}
}

// Forget removes the mark of the backup, and the marks of backups that were removed by restic itself. Other marks stay.
func TestForgetRemovesMarks(t *testing.T) {
	fx := newFixture(t)
	first, second, kept := fx.storeIncomplete(t), fx.storeIncomplete(t), fx.storeIncomplete(t)
	if out, err := resticCommand(fx.option("repository"), "forget", first.ID).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, fx.Forget(t.Context(), fx.config, second.ID))
	marks, others := fx.listSnapshots(t)
	if len(marks) != 1 || !slices.Equal(others, []string{kept.ID}) {
		t.Errorf("left: marks %v, others %v", marks, others)
	}
	if list, err := fx.List(t.Context(), fx.config, ""); err != nil || len(list) != 1 || !list[0].Incomplete {
		t.Errorf("%+v, %v", list, err)
	}
}
