package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

type state struct {
	Units []string `json:"units"`
}

// newJournal returns an empty journal. Each reading of its clock is a minute later than the one before.
func newJournal(t *testing.T) *Journal {
	t.Helper()
	j, err := Open(filepath.Join(t.TempDir(), "lib", "journal"))
	if err != nil {
		t.Fatal(err)
	}
	current := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	j.clock = func() time.Time {
		current = current.Add(time.Minute)
		return current
	}
	return j
}

func begin(t *testing.T, j *Journal, id, kind, set string) *Entry {
	t.Helper()
	e, err := j.Begin(id, kind, set, []string{"vg00"}, "checked", nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func finish(t *testing.T, j *Journal, e *Entry, outcome Outcome) {
	t.Helper()
	if err := j.Finish(e, "merged", outcome, nil); err != nil {
		t.Fatal(err)
	}
}

func ids(list []*Entry) string {
	var all []string
	for _, e := range list {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func TestOpenMakesDirectoryForRootOnly(t *testing.T) {
	j := newJournal(t)
	info, err := os.Stat(j.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestLoadReturnsWhatWasWritten(t *testing.T) {
	j := newJournal(t)
	e, err := j.Begin("a-1", "merge", "snap", []string{"vg00", "vg01"}, "checked", state{Units: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Record(e, "services_stopped", state{Units: []string{"postgresql@15-main.service"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Record(e, "unmounted", nil); err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		t.Fatal(err)
	}
	want := &Entry{
		ID: "a-1", Kind: "merge", Set: "snap", Groups: []string{"vg00", "vg01"},
		BootID:  strings.TrimSpace(string(boot)),
		Begun:   time.Date(2026, 3, 1, 12, 1, 0, 0, time.UTC),
		Number:  1,
		Updated: time.Date(2026, 3, 1, 12, 4, 0, 0, time.UTC),
		Step:    "unmounted",
		State:   json.RawMessage(`{"units":["postgresql@15-main.service"]}`),
	}
	loaded, err := j.Load("a-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*Entry{e, loaded} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestBeginRefusesBadAndUsedIDs(t *testing.T) {
	j := newJournal(t)
	begin(t, j, "a", "merge", "snap")
	tests := map[string]fault.Code{
		"a": fault.Exists, "": fault.BadArguments, "../a": fault.BadArguments,
		"A": fault.BadArguments, "a.json": fault.BadArguments, "a\n": fault.BadArguments,
		strings.Repeat("a", 300): fault.BadArguments,
	}
	for id, code := range tests {
		if _, err := j.Begin(id, "merge", "snap", nil, "checked", nil); !errors.Is(err, code) {
			t.Errorf("%q: %v, want %s", id, err, code)
		}
	}
}

func TestFailedRecordLeavesEntryUnchanged(t *testing.T) {
	j := newJournal(t)
	e := begin(t, j, "a", "merge", "snap")
	if err := j.Record(e, "merging", func() {}); err == nil {
		t.Fatal("a function was stored as JSON")
	}
	if err := os.RemoveAll(j.dir); err != nil {
		t.Fatal(err)
	}
	if err := j.Record(e, "merging", nil); err == nil {
		t.Fatal("the write into a missing directory did not fail")
	}
	if e.Step != "checked" {
		t.Errorf("the entry is at step %q, which is not on the disk", e.Step)
	}
}

func TestLoadOfMissingEntryIsNotFound(t *testing.T) {
	if _, err := newJournal(t).Load("a"); !errors.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestEntriesAndUnfinished(t *testing.T) {
	j := newJournal(t)
	b := begin(t, j, "b", "merge", "snap")
	begin(t, j, "a", "merge", "snap")
	c := begin(t, j, "c", "create", "snap")
	finish(t, j, b, Done)
	finish(t, j, c, Undone)
	list, err := j.Entries()
	if got := ids(list); got != "c a b" || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	list, err = j.Unfinished()
	if got := ids(list); got != "a" || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestEntriesNamesDamagedOnesAndReturnsTheOthers(t *testing.T) {
	j := newJournal(t)
	begin(t, j, "good", "merge", "snap")
	for name, content := range map[string]string{
		"torn.json":         `{"id":"torn","ki`,
		"empty.json":        ``,
		"moved.json":        `{"id":"other"}`,
		"later.json":        `{"id":"later","outcome":"half"}`,
		".good.json8675309": `{`, // what a power cut during a write leaves
		"notes.txt":         `not an entry`,
	} {
		if err := os.WriteFile(filepath.Join(j.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := j.Unfinished()
	if got := ids(list); got != "good" {
		t.Errorf("got %s", got)
	}
	f := fault.Of(err)
	var want []string
	for _, name := range []string{"empty", "later", "moved", "torn"} {
		want = append(want, filepath.Join(j.dir, name+".json"))
	}
	if f.Code != fault.JournalDamaged {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(want, f.Facts["files"]); diff != "" {
		t.Error(diff)
	}
}

func TestPruneKeepsNewestDoneAndUnfinishedEntries(t *testing.T) {
	j := newJournal(t)
	finish(t, j, begin(t, j, "old-replaced", "merge", "snap"), Done)
	finish(t, j, begin(t, j, "old-newest", "merge", "snap"), Done)
	finish(t, j, begin(t, j, "old-other-set", "merge", "before-upgrade"), Done)
	finish(t, j, begin(t, j, "old-undone", "merge", "gone"), Undone)
	begin(t, j, "old-unfinished", "merge", "snap")
	damaged := filepath.Join(j.dir, "damaged.json")
	if err := os.WriteFile(damaged, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range keptEntries {
		finish(t, j, begin(t, j, fmt.Sprintf("new-%02d", i), "create", "snap"), Undone)
	}
	list, err := j.Entries()
	if !errors.Is(err, fault.JournalDamaged) {
		t.Errorf("the damaged entry is gone: %v", err)
	}
	old := slices.DeleteFunc(slices.Clone(list), func(e *Entry) bool { return e.Kind == "create" })
	if got, want := ids(old), "old-unfinished old-other-set old-newest"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	if created := len(list) - len(old); created != keptEntries {
		t.Errorf("kept %d new ones, want %d", created, keptEntries)
	}
}

func TestNewIDIsUniqueAndSortsByTime(t *testing.T) {
	seen := map[string]bool{}
	last := ""
	for range 1000 {
		id := NewID()
		if !isSafe(id) || !IsID(id) || seen[id] {
			t.Fatalf("id %q", id)
		}
		if timestamp := id[:len("20060102t150405-000000")]; timestamp < last {
			t.Fatalf("%s after %s", timestamp, last)
		} else {
			last = timestamp
		}
		seen[id] = true
	}
}

func TestIsIDRefusesOtherForms(t *testing.T) {
	for _, id := range []string{
		"", "20260131t235959-123456-0a1b2", "20260131t235959-123456-0a1b2c3", "20260131T235959-123456-0a1b2c",
		"20260131t235959-123456-0a1b2g", "2026013xt235959-123456-0a1b2c", "20260131t235959/123456-0a1b2c",
		"../../../../etc/shadow/abcde",
	} {
		if IsID(id) {
			t.Errorf("%q is taken for an id", id)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("a", []byte(`{"id":"a","state":{"x":1},"outcome":"done"}`))
	f.Add("a", []byte(`{"id":"a","state":null}`))
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		e, err := decode(id, data)
		if err != nil {
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("cannot be written again: %v", err)
		}
		if _, err := decode(id, again); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}

// A clock that was ahead for a rehearsal must not make that rollback the last one for a year.
func TestEntriesAreOrderedWhateverTheClockIs(t *testing.T) {
	j := newJournal(t)
	rehearsal := time.Now().AddDate(1, 0, 0)
	j.clock = func() time.Time { return rehearsal }
	first := begin(t, j, "rehearsal", "merge", "snap")
	j.clock = time.Now
	second := begin(t, j, "real", "merge", "snap")
	if list, err := j.Entries(); err != nil || len(list) != 2 || list[0].ID != second.ID || list[1].ID != first.ID {
		t.Errorf("%v, %v", list, err)
	}
}
