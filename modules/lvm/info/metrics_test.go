package info

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/snapset"
)

func TestMetrics(t *testing.T) {
	i, full := info(), int64(7200)
	i.Sets[0].Time = "2026-03-04T02:00:00Z"
	i.Unmanaged[0].ToFull = &full
	i.Unmanaged[0].Volume = "vg00/\"a\\b\nc\xff"
	// A job that was widened and has not succeeded since: its volumes are not told twice.
	backups := append(lastBackups(), judged(jobs.Job{Name: "nightly", Backend: "mirror", Asked: []string{"/dat", "/srv"}, Ended: "x", Code: fault.NoSpace}, nil, lastLook))
	want, err := os.ReadFile("testdata/metrics.prom") // which `make lint` gives to promtool
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), metrics(i, backups, []notBegun{{Name: "monthly"}})); diff != "" {
		t.Error(diff)
	}
	if text := metrics(&snapset.Info{}, nil, nil); text != "" {
		t.Errorf("of nothing: %s", text)
	}
}

// The node exporter refuses a file in which a sample is there twice: two sets of one name must not cost all the others.
func TestNoSampleIsWrittenTwice(t *testing.T) {
	i := &snapset.Info{Sets: []snapset.SetInfo{{Name: "snap", Time: "2026-03-04T02:00:00Z"}, {Name: "snap", Time: "2026-03-05T02:00:00Z"}}}
	once := metrics(&snapset.Info{Sets: i.Sets[:1]}, nil, nil)
	if diff := cmp.Diff(once, metrics(i, nil, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestTheTextfileIsReadByOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rewind.prom")
	if err := writeMetrics(path, "x 1\n"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := writeMetrics(filepath.Join(dir, "none/rewind.prom"), ""); !errors.Is(err, fault.NotFound) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
