package run

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
)

func TestListSaysWhatIsDatedInFuture(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	listed := entriesOf([]backup.Stored{
		{ID: "early", Host: "web", Sequence: 1, Time: now.Add(-time.Hour)},
		{ID: "ahead-of-web", Host: "web", Sequence: 2, Time: now.Add(100 * time.Hour)},
	}, now)
	if listed[0].ID != "ahead-of-web" || !listed[0].Future || listed[1].Future {
		t.Errorf("listed: %+v", listed)
	}
}

// fakeBackend is a backend with a fixed list of backups.
type fakeBackend struct {
	backup.Backend
	stored []backup.Stored
}

func (l fakeBackend) List(_ context.Context, _ backup.Config, host string) ([]backup.Stored, error) {
	isOther := func(s backup.Stored) bool { return host != "" && s.Host != host }
	return slices.DeleteFunc(slices.Clone(l.stored), isOther), nil
}

// A server that was renamed or replaced has no backups under its new name. The message then names the hosts that have.
func TestEmptyListNamesOtherHosts(t *testing.T) {
	db1 := []backup.Stored{{ID: "1", Host: "db1", Roots: []string{"/dat"}}}
	for name, tt := range map[string]struct {
		host     string
		allHosts bool
		stored   []backup.Stored
		want     string
	}{
		"its own": {"db1", false, db1, "backups: 1"},
		"another's": {"db2", false, db1, "there is no backup of db2; those that are there are of db1; " +
			"host=NAME or all_hosts=true lists them"},
		"nobody's":     {"db2", false, nil, "there is no backup of db2, nor of another host"},
		"of all hosts": {"db2", true, nil, "backups: 0"},
	} {
		backend := fakeBackend{stored: tt.stored}
		op := &operation{Request: Request{Use: access.Use{Host: tt.host}, AllHosts: tt.allHosts}}
		list, _ := backend.List(t.Context(), backup.Config{}, tt.host)
		got, err := op.countMessage(t.Context(), backend, backup.Config{}, list)
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}
