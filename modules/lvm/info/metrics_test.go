package info

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

func TestFormatMetrics(t *testing.T) {
	i, full := exampleInfo(), int64(7200)
	i.Sets[0].Time = "2026-03-04T02:00:00Z"
	i.Unmanaged[0].ToFull = &full
	i.Unmanaged[0].Volume = "vg00/\"a\\b\nc\xff"
	// A job to which a volume was added, and which has not succeeded since: no volume has two samples.
	backups := append(exampleBackups(), withState(jobs.Job{Name: "nightly", Backend: "mirror",
		Asked: []string{"/dat", "/srv"}, Ended: "x", Code: fault.NoSpace}, nil, lookTime))
	want, err := os.ReadFile("testdata/metrics.prom") // promtool checks this file, too, in `make lint`
	if err != nil {
		t.Fatal(err)
	}
	scheduled := []scheduledBackup{{Name: "nightly"}, {Name: "weekly", Problem: "its timer is not active"}}
	current := []journey.Status{{Kind: "rollback", Set: "snap"}, {Kind: "query"}, {Kind: "backup", Set: "not yet"}}
	got := formatMetrics(i, current, backups, []notBegun{{Name: "monthly"}}, scheduled,
		[]string{"what came of a backup cannot be read", "and another"})
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
	text := formatMetrics(&snapset.Info{}, nil, nil, nil, nil, nil)
	if strings.Count(text, "\n") != 3 || !strings.HasSuffix(text, "\nrewind_warnings 0\n") {
		t.Errorf("without sets and backups: %s", text)
	}
}

// The node exporter refuses a whole file that has one sample twice, as two sets with the same name would give.
func TestMetricsHaveNoSampleTwice(t *testing.T) {
	i := &snapset.Info{Sets: []snapset.SetInfo{{Name: "snap", Time: "2026-03-04T02:00:00Z"},
		{Name: "snap", Time: "2026-03-05T02:00:00Z"}}}
	once := formatMetrics(&snapset.Info{Sets: i.Sets[:1]}, nil, nil, nil, nil, nil)
	if diff := cmp.Diff(once, formatMetrics(i, nil, nil, nil, nil, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestTextfileIsReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rewind.prom")
	if err := writeMetrics(path, "x 1\n", true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a check has written it: %v", err)
	}
	if err := writeMetrics(path, "x 1\n", false); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, check := range []bool{true, false} {
		if err := writeMetrics(filepath.Join(dir, "none/rewind.prom"), "", check); !errors.Is(err, fault.NotFound) {
			t.Errorf("a directory that does not exist, check %v: %v", check, err)
		}
	}
}
