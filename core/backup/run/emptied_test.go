package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
)

// A place that held this server's backups and holds none now is most likely not mounted, and is refused. The hint names
// the file by whose removal a person says that it was emptied on purpose.
func TestEmptiedPlaceIsRefused(t *testing.T) {
	dir := jobs.Dir(filepath.Join(t.TempDir(), "jobs"))
	op := &operation{Request: nightly}
	op.Use.Options = map[string]any{"path": "/srv/backup"}
	refused := func(op *operation, stored ...backup.Stored) error {
		return op.refuseEmptied(t.Context(), dir, fakeBackend{stored: stored}, backup.Config{})
	}
	if err := refused(op); err != nil {
		t.Errorf("before the first backup: %v", err)
	}
	begun, err := dir.Begin(op.job(), time.Unix(0, 0))
	if err == nil {
		err = dir.End(begun, &jobs.Good{ID: "one", Volumes: []string{"/dat"}}, nil, time.Unix(60, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := refused(op, backup.Stored{ID: "two", Host: "db1"}); err != nil {
		t.Errorf("another backup is listed: %v", err)
	}
	otherName, otherHost, otherPlace := *op, *op, *op
	otherName.Set = "weekly"
	otherHost.Use.Host = "db2"
	otherPlace.Use.Options = map[string]any{"path": "/srv/new"}
	for _, other := range []*operation{&otherHost, &otherPlace} {
		if err := refused(other); err != nil {
			t.Errorf("%s in %s: %v", other.Use.Host, other.place(), err)
		}
	}
	ofAnother := backup.Stored{ID: "x", Host: "db2"}
	listed := op.emptied(dir.GoodAt(op.job()), []backup.Stored{ofAnother})
	for _, err := range []error{refused(op), refused(&otherName, ofAnother), listed} {
		f := fault.Of(err)
		if f == nil || f.Code != fault.RepositoryMissing || !strings.Contains(f.Hint, begun.File) ||
			f.Msg != "/srv/backup held backup one of db1, which was complete at 1970-01-01T00:01:00Z, "+
				"and holds none of db1 now" {
			t.Errorf("got %v", err)
		}
	}
	if err := errors.Join(os.Remove(begun.File), refused(op)); err != nil {
		t.Errorf("after the file was removed: %v", err)
	}
}
