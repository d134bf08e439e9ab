package run

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// runRecorded makes a backup that ends with the result and the failure, records its outcome in dir, and calls during
// while the backup is under way.
func runRecorded(
	t *testing.T, dir jobs.Dir, r Request, result ansible.Result, failure error, during func(),
) (ansible.Result, error) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	do := func(context.Context, *journey.Run, json.RawMessage) (ansible.Result, error) {
		during()
		return result, failure
	}
	return recordOutcome(dir, journey.Handler{Do: do}).Do(t.Context(), &journey.Run{}, data)
}

var nightly = Request{
	Set: "nightly", Use: access.Use{Backend: "mirror", Host: "db1"},
	Volumes: []access.Volume{{Volume: snapset.Volume{Name: "/dat"}}, {Volume: snapset.Volume{Name: "/boot"}, Live: true}},
}

func TestOutcomeOfBackupIsRecorded(t *testing.T) {
	dir := jobs.Dir(filepath.Join(t.TempDir(), "backups"))
	last := func() jobs.Job {
		list, err := dir.Jobs()
		if err != nil || len(list) != 1 {
			t.Fatalf("%d jobs, %v", len(list), err)
		}
		return list[0]
	}
	result := ansible.Result{Msg: "backed up", Data: map[string]any{
		"id": "one", "time": "2026-03-04T02:00:01Z", "volumes": []string{"/dat", "/boot"},
		"files": int64(3), "bytes": int64(2), "stored_bytes": int64(1),
	}}
	if _, err := runRecorded(t, dir, nightly, result, nil, func() {
		if j := last(); j.Ended != "" || j.Begun == "" || j.Name != "nightly" || j.Host != "db1" {
			t.Errorf("while the backup is under way: %+v", j)
		}
	}); err != nil {
		t.Fatal(err)
	}
	want := &jobs.Good{
		ID: "one", Time: "2026-03-04T02:00:01Z", Ended: last().Ended, Volumes: []string{"/dat", "/boot"},
		Files: 3, Bytes: 2, Stored: 1,
	}
	if diff := cmp.Diff(want, last().Good); diff != "" {
		t.Error(diff)
	}
	failure := fault.New(fault.SnapshotInvalid, "it overflowed")
	_, err := runRecorded(t, dir, nightly, ansible.Result{}, failure, func() {})
	if !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("the failure became %v", err)
	}
	if j := last(); !j.Failed() || j.Code != fault.SnapshotInvalid || j.Msg != "it overflowed" || j.Good.ID != "one" {
		t.Errorf("after a failure: %+v", j)
	}
	before := last()
	check := nightly
	check.Check = true
	if _, err := runRecorded(t, dir, check, result, nil, func() {}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, last()); diff != "" {
		t.Errorf("a check is recorded: %s", diff)
	}
}

func TestUnrecordableOutcomeIsAWarning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := runRecorded(t, jobs.Dir(file), nightly, ansible.Result{Data: map[string]any{"id": "one"}}, nil, func() {})
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], file) {
		t.Errorf("%v, warnings %q", err, r.Warnings)
	}
}

func TestJobPlaceIgnoresPasswordAndLimits(t *testing.T) {
	place := func(options map[string]any) string {
		r := nightly
		r.Use.Options = options
		return r.job().Place
	}
	with := func(repository string) map[string]any {
		return map[string]any{"repository": repository, "limit_upload": 5}
	}
	if place(with("rest:https://a:one@host/x")) != place(with("rest:https://a:two@host/x")) {
		t.Error("the place depends on the password")
	}
	if place(with("/srv/restic")) == place(with("rest:https://a:two@host/x")) {
		t.Error("the place does not depend on the options")
	}
	faster := with("/srv/restic")
	faster["limit_upload"], faster["cache"] = 500, "/var/cache/restic"
	if place(faster) != place(with("/srv/restic")) {
		t.Error("the place depends on how fast the backups get there")
	}
	if _, kept := faster["cache"]; !kept {
		t.Error("the request has lost an option")
	}
}
