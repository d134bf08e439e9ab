package run

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
)

func TestForgetCountsCompleteBackupsOfSameJob(t *testing.T) {
	earlier := time.Now()
	b := func(id string, incomplete bool, roots ...string) backup.Stored {
		earlier = earlier.Add(-time.Hour)
		return backup.Stored{ID: id, Host: "web", Set: "backup", Time: earlier, Incomplete: incomplete, Roots: roots}
	}
	otherHost, otherSet := b("other host", false, "/a", "/b"), b("other set", false, "/a", "/b")
	otherProgram := b("other program", false, "/a", "/b")
	otherHost.Host, otherSet.Set, otherProgram.Set = "mail", "weekly", ""
	all := []backup.Stored{
		b("7", true, "/a", "/b"), b("6", false, "/b", "/a"), otherHost, otherSet, otherProgram, b("5", false, "/a"),
		b("4", true, "/a", "/b"), b("3", false, "/a", "/b"), b("2", true, "/a", "/b"), b("1", false, "/a", "/b"),
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
		{9, 1, []string{"7", "6", "4", "3", "2"}}, // the clock was set back before the last backup
	} {
		var got []string
		for _, old := range backupsToForget(all, all[c.last], c.keep, time.Now()) {
			got = append(got, old.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("last %s, keep %d: %q are to be forgotten, want %q", all[c.last].ID, c.keep, got, c.want)
		}
	}
}

// A backup dated in the future does not count towards the backups to keep. It is forgotten in the order of its number.
func TestForgetIgnoresBackupsDatedInFuture(t *testing.T) {
	now := time.Now()
	b := func(id string, sequence int64, age time.Duration) backup.Stored {
		return backup.Stored{ID: id, Host: "web", Set: "backup", Sequence: sequence, Time: now.Add(-age)}
	}
	const hour, year = time.Hour, 365 * 24 * time.Hour
	all := []backup.Stored{b("ahead", 3, -year), b("5", 5, hour), b("4", 4, 2*hour), b("2", 2, 4*hour), b("1", 1, 5*hour)}
	unnumbered := []backup.Stored{b("ahead", 0, -year), b("3", 3, hour), b("2", 2, 2*hour), b("1", 1, 3*hour)}
	for _, c := range []struct {
		list []backup.Stored
		last int // index
		keep int
		want []string
	}{
		{all, 1, 1, []string{"4", "ahead", "2", "1"}},
		{all, 1, 2, []string{"ahead", "2", "1"}},
		{all, 1, 3, []string{"1"}},
		{unnumbered, 1, 2, []string{"1"}},
	} {
		var got []string
		for _, old := range backupsToForget(c.list, c.list[c.last], c.keep, now) {
			got = append(got, old.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("keep %d of %v: %q are to be forgotten, want %q", c.keep, c.list, got, c.want)
		}
	}
}

// A copy of a virtual machine has the name of the first one, and its timer goes on. Neither removes the backups of the
// other.
func TestForgetLeavesOtherMachinesOfOneNameAlone(t *testing.T) {
	now := time.Now()
	b := func(id, machine string, age time.Duration) backup.Stored {
		return backup.Stored{ID: id, Host: "web", Set: "backup", Machine: machine, Time: now.Add(-age)}
	}
	list := []backup.Stored{
		b("5", "copy", 0), b("4", "first", time.Hour), b("3", "copy", 2*time.Hour), b("2", "first", 3*time.Hour),
		b("1", "", 4*time.Hour), // made by a version that did not keep the machine
	}
	for _, c := range []struct {
		last int // index
		want []string
	}{{0, []string{"3", "1"}}, {1, []string{"2", "1"}}, {4, []string{"5", "4", "3", "2"}}} {
		var got []string
		for _, old := range backupsToForget(list, list[c.last], 1, now) {
			got = append(got, old.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("last %s: %q are to be forgotten, want %q", list[c.last].ID, got, c.want)
		}
	}
	warnings := namesakeWarning(list, list[0])
	if len(warnings) != 1 || !strings.Contains(warnings[0], "such as 4 of ") || !strings.Contains(warnings[0], "are 2.") {
		t.Errorf("%q", warnings)
	}
	if warnings := namesakeWarning(list, list[4]); len(warnings) > 0 {
		t.Errorf("%q, although it is not known which machine this is", warnings)
	}
}
