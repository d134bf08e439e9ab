package run

import (
	"slices"
	"testing"

	"go.pcc.com/rewind/core/backup"
)

func TestBeyondCountsCompleteOnesOfTheSameSet(t *testing.T) {
	b := func(id string, incomplete bool, roots ...string) backup.Stored {
		return backup.Stored{ID: id, Host: "web", Set: "backup", Incomplete: incomplete, Roots: roots}
	}
	foreign, others, by := b("foreign", false, "/a", "/b"), b("others", false, "/a", "/b"), b("by another program", false, "/a", "/b")
	foreign.Host, others.Set, by.Set = "mail", "weekly", ""
	all := []backup.Stored{
		b("7", true, "/a", "/b"), b("6", false, "/b", "/a"), foreign, others, by, b("5", false, "/a"), b("4", true, "/a", "/b"),
		b("3", false, "/a", "/b"), b("2", true, "/a", "/b"), b("1", false, "/a", "/b"),
	}
	for _, c := range []struct {
		last int // index
		keep int
		want []string
	}{
		{1, 1, []string{"7", "4", "3", "2", "1"}},
		{1, 2, []string{"2", "1"}},
		{1, 3, nil},
		{1, 9, nil},
		{9, 1, []string{"7", "6", "4", "3", "2"}}, // the clock was put back: it is the last all the same
	} {
		var got []string
		for _, old := range beyond(all, all[c.last], c.keep) {
			got = append(got, old.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("last %s, keep %d: %q go, want %q", all[c.last].ID, c.keep, got, c.want)
		}
	}
}
