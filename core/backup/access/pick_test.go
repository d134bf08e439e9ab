package access

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

func TestPickByIDAndLatest(t *testing.T) {
	now := time.Now()
	list := []backup.Stored{
		{ID: "incomplete-newest", Host: "a", Incomplete: true}, {ID: "0123456789ab", Host: "b", Roots: []string{"/dat"}},
		{ID: "20261123T02-a", Host: "a", Roots: []string{"/other"}},
		{ID: "20261123T01-a", Host: "a", Roots: []string{"/dat", "/x"}},
		{ID: "older-of-a", Host: "a", Roots: []string{"/dat"}}, {ID: "older-of-a-by-far", Host: "a"},
	}
	for i := range list {
		list[i].Time = now.Add(-time.Duration(i) * time.Hour)
	}
	for _, c := range []struct {
		id    string
		roots []string
		want  string
	}{
		{Latest, nil, "20261123T02-a"},
		{Latest, []string{"/dat"}, "20261123T01-a"},
		{Latest, []string{"/x", "/dat"}, "20261123T01-a"},
		{"older-of-a", nil, "older-of-a"},
		{"older-of-a-by", nil, "older-of-a-by-far"},
		{"0123456789ab", nil, "0123456789ab"}, // a backup of another host, by its whole ID
		{"incomplete-newest", nil, "incomplete-newest"},
	} {
		got, err := Pick(list, c.id, "a", c.roots, now)
		if err != nil || got.ID != c.want {
			t.Errorf("%s %v: %q, %v", c.id, c.roots, got.ID, err)
		}
	}
	for _, id := range []string{"older", "01234567", "missing", ""} {
		if _, err := Pick(list, id, "a", nil, now); !errors.Is(err, fault.NotFound) || fault.Of(err).Hint == "" {
			t.Errorf("%q: %v", id, err)
		}
	}
	_, err := Pick(list, "20261123", "a", nil, now)
	if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), "20261123T02-a, 20261123T01-a") {
		t.Errorf("two IDs begin so: %v", err)
	}
	for host, roots := range map[string][]string{"c": nil, "b": {"/x"}} {
		if _, err := Pick(list, Latest, host, roots, now); !errors.Is(err, fault.NotFound) {
			t.Errorf("latest of %s with %v: %v", host, roots, err)
		}
	}
}

// Who names a volume that no backup has is told what the newest one has.
func TestLatestNamesTheRootsThatThereAre(t *testing.T) {
	now := time.Now()
	list := []backup.Stored{
		{ID: "broken", Host: "web", Sequence: 3, Roots: []string{"/srv"}, Incomplete: true},
		{ID: "others", Host: "mail", Sequence: 2, Roots: []string{"/srv"}},
		{ID: "new", Host: "web", Sequence: 2, Time: now, Roots: []string{"/srv/data", "/dat"}},
		{ID: "old", Host: "web", Sequence: 1, Time: now.Add(-time.Hour), Roots: []string{"/home"}},
	}
	_, err := Pick(list, Latest, "web", []string{"/srv"}, now)
	if hint := fault.Of(err).Hint; !errors.Is(err, fault.NotFound) ||
		!strings.HasPrefix(hint, "the newest one, new, has /srv/data, /dat: ") {
		t.Errorf("%v, hint %q", err, hint)
	}
	_, err = Pick(list[:2], Latest, "web", []string{"/srv"}, now)
	if hint := fault.Of(err).Hint; !strings.HasPrefix(hint, "snap_backup_info lists ") {
		t.Errorf("without a complete backup: %v, hint %q", err, hint)
	}
}

// If a repository has only backups of other hosts, the fault names these hosts, and the hint says how to take their
// backups.
func TestLatestNamesOtherHosts(t *testing.T) {
	now := time.Now()
	list := []backup.Stored{
		{ID: "1", Host: "db1", Sequence: 1, Time: now.Add(-3 * time.Hour)},
		{ID: "2", Host: "mail", Sequence: 1, Time: now.Add(-time.Hour)},
		{ID: "3", Host: "db1", Sequence: 2, Time: now.Add(-2 * time.Hour)},
	}
	_, err := Pick(list, Latest, "web", []string{"/dat"}, now)
	if !errors.Is(err, fault.NotFound) || !strings.HasSuffix(err.Error(), "those that are there are of mail, db1") {
		t.Errorf("got %v", err)
	}
	if hint := fault.Of(err).Hint; !strings.HasPrefix(hint, "host=mail ") {
		t.Errorf("hint %q", hint)
	}
	_, err = Pick(append(list, backup.Stored{ID: "4", Host: "web", Incomplete: true}), Latest, "web", nil, now)
	if !errors.Is(err, fault.NotFound) || strings.Contains(err.Error(), "db1") {
		t.Errorf("where the host has an incomplete backup: %v", err)
	}
}

// A backup that was made while the clock ran ahead is never the latest, not even if it is the only one. A warning names
// it.
func TestBackupDatedInFutureIsNeverLatest(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	future := backup.Stored{ID: "ahead-of-web", Host: "web", Sequence: 2, Time: now.Add(100 * time.Hour)}
	early := backup.Stored{ID: "early", Host: "web", Sequence: 1, Time: now.Add(-time.Hour)}
	list := []backup.Stored{future, early}
	if got, err := Pick(list, Latest, "web", nil, now); err != nil || got.ID != "early" {
		t.Errorf("the latest is %q, %v", got.ID, err)
	}
	if got, err := Pick(list, "ahead-of-web", "web", nil, now); err != nil || got.ID != "ahead-of-web" {
		t.Errorf("by its ID: %q, %v", got.ID, err)
	}
	_, err := Pick(list[:1], Latest, "web", nil, now)
	if !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "now, 2026-03-04T12:00:00Z: ahead-of-web") {
		t.Errorf("where there is no other backup: %v", err)
	}
	warnings := FutureWarning(list, "web", now)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "ahead-of-web of 2026-03-08T16:00:00Z") {
		t.Errorf("warnings: %q", warnings)
	}
	if warnings := FutureWarning(list, "mail", now); warnings != nil {
		t.Errorf("warnings for another host: %q", warnings)
	}
}

// The latest backup that can be read is taken, with a warning that there is one that cannot.
func TestDamagedBackupIsNotTheLatest(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	list := []backup.Stored{
		{ID: "damaged", Host: "web", Time: now, Incomplete: true, Damaged: "no JSON"},
		{ID: "good", Host: "web", Time: now.Add(-time.Hour), Roots: []string{"/dat"}},
		{ID: "other", Host: "db", Time: now.Add(-time.Hour), Incomplete: true, Damaged: "no JSON"},
	}
	if got, err := Pick(list, Latest, "web", nil, now); err != nil || got.ID != "good" {
		t.Errorf("%+v, %v", got, err)
	}
	for host, want := range map[string]int{"web": 1, "": 2, "mail": 0} {
		if got := DamagedWarnings(list, host); len(got) != want || want == 1 && !strings.Contains(got[0], "damaged of web") {
			t.Errorf("%q: %q", host, got)
		}
	}
}

// Another program may have left files out of its backup. A restore would take them for deleted.
func TestBackupOfAnotherProgramIsTheLatestOnlyIfThereIsNoOther(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	dat := []string{"/dat"}
	fresh := backup.Stored{ID: "byhand-new", Host: "web", Time: now.Add(-time.Hour), Roots: dat}
	old := backup.Stored{ID: "byhand-old", Host: "web", Time: now.Add(-9 * time.Hour), Roots: dat}
	own := backup.Stored{ID: "ours", Host: "web", Set: "backup", Sequence: 1, Time: now.Add(-2 * time.Hour), Roots: dat}
	for _, c := range []struct {
		list []backup.Stored
		id   string
		want string
		says string
	}{
		{[]backup.Stored{fresh, own, old}, Latest, "ours", "backup ours, and not made by snap_backup: byhand-new;"},
		{[]backup.Stored{own, old}, Latest, "ours", ""},
		{[]backup.Stored{fresh, old}, Latest, "byhand-new", "byhand-new was not made by snap_backup: what was left out"},
		{[]backup.Stored{fresh, own}, "byhand-new", "byhand-new", "is deleted in the set"},
	} {
		got, err := Pick(c.list, c.id, "web", dat, now)
		if err != nil || got.ID != c.want {
			t.Errorf("%s of %v: %q, %v", c.id, c.list, got.ID, err)
		}
		warnings := ForeignWarning(c.list, got)
		if said := strings.Join(warnings, ""); !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%s of %v: warnings %q", c.id, c.list, warnings)
		}
	}
}
