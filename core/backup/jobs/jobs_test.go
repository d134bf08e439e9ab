package jobs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

var start = time.Date(2026, 3, 4, 2, 0, 0, 0, time.UTC)

// at is so many hours after the start.
func at(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }

func job(name string, volumes ...string) Job {
	return Job{Name: name, Backend: "mirror", Host: "db1", Asked: volumes, Unit: "rewind-1.service"}
}

// run is a run of the job from one hour to the next.
func run(t *testing.T, d Dir, j Job, hour int, good *Good, failure error) {
	t.Helper()
	begun, err := d.Begin(j, at(hour))
	if err == nil {
		err = d.End(begun, good, failure, at(hour+1))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func listed(t *testing.T, d Dir) []Job {
	t.Helper()
	list, err := d.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// names are the jobs' names with the volumes that they were asked for.
func names(t *testing.T, d Dir) (all []string) {
	for _, j := range listed(t, d) {
		all = append(all, j.Name+" "+strings.Join(j.Asked, ","))
	}
	return all
}

func TestALaterFailureKeepsTheLastGoodOne(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "made"))
	if list := listed(t, d); list != nil {
		t.Errorf("before the first: %+v", list)
	}
	good := Good{ID: "one", Time: "2026-03-04T02:00:01Z", Volumes: []string{"/dat"}, Files: 3, Bytes: 2, Stored: 1}
	stored := good
	run(t, d, job("nightly", "/dat"), 0, &stored, nil)
	run(t, d, job("nightly", "/dat"), 24, nil, fault.New(fault.NoSpace, "the repository is full"))
	good.Ended = "2026-03-04T03:00:00Z"
	want := job("nightly", "/dat")
	want.Begun, want.Ended, want.Code, want.Msg = "2026-03-05T02:00:00Z", "2026-03-05T03:00:00Z", fault.NoSpace, "the repository is full"
	want.Good = &good
	want.File = listed(t, d)[0].File
	if diff := cmp.Diff([]Job{want}, listed(t, d)); diff != "" {
		t.Error(diff)
	}
	if j := listed(t, d)[0]; !j.Failed() {
		t.Error("the last run is not said to have failed")
	}
	again := good
	run(t, d, job("nightly", "/dat"), 48, &again, nil)
	if j := listed(t, d)[0]; j.Failed() || j.Code != "" || j.Good.Ended != "2026-03-06T03:00:00Z" {
		t.Errorf("after a good one: %+v", j)
	}
}

// A run that was killed has written that it began, and nothing else.
func TestARunThatIsKilledHasNoEnd(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("nightly", "/dat"), 0, &Good{ID: "one", Volumes: []string{"/dat"}}, nil)
	if _, err := d.Begin(job("nightly", "/dat"), at(24)); err != nil {
		t.Fatal(err)
	}
	j := listed(t, d)[0]
	if j.Ended != "" || j.Begun != "2026-03-05T02:00:00Z" || j.Good == nil || j.Good.ID != "one" || j.Failed() {
		t.Errorf("%+v", j)
	}
}

// A job whose list of volumes was mended or grew does not leave the old one behind as a failure that nobody can end.
func TestAJobTakesThePlaceOfWhatItCovers(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("nightly", "/dta"), 0, nil, fault.New(fault.NotFound, "no /dta"))
	run(t, d, job("weekly", "/dat"), 0, &Good{ID: "w", Volumes: []string{"/dat"}}, nil)
	run(t, d, job("nightly", "/dat"), 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat", "weekly /dat"}, names(t, d)); diff != "" {
		t.Errorf("after the list was mended: %s", diff)
	}
	run(t, d, job("nightly", "/dat", "/pccehr"), 2, nil, errors.New("no"))
	if diff := cmp.Diff([]string{"nightly /dat", "nightly /dat,/pccehr", "weekly /dat"}, names(t, d)); diff != "" {
		t.Errorf("after a longer list failed: %s", diff)
	}
	run(t, d, job("nightly", "/dat", "/pccehr"), 3, &Good{ID: "2", Volumes: []string{"/dat", "/pccehr"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat,/pccehr", "weekly /dat"}, names(t, d)); diff != "" {
		t.Errorf("after it succeeded: %s", diff)
	}
	run(t, d, job("nightly", "/pccehr"), 4, &Good{ID: "3", Volumes: []string{"/pccehr"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat,/pccehr", "nightly /pccehr", "weekly /dat"}, names(t, d)); diff != "" {
		t.Errorf("/dat, which is not backed up any more, is forgotten: %s", diff)
	}
}

// A place that never works is not forgotten because another does.
func TestAnotherPlaceIsAnotherJob(t *testing.T) {
	d := Dir(t.TempDir())
	for i, change := range []func(*Job){func(j *Job) { j.Backend = "restic" }, func(j *Job) { j.Place = "offsite" }} {
		offsite := job("nightly", "/dat")
		change(&offsite)
		run(t, d, offsite, 0, nil, errors.New("wrong password"))
		run(t, d, job("nightly", "/dat"), 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
		if list := listed(t, d); len(list) != 2+i || !list[0].Failed() {
			t.Errorf("%+v", list)
		}
	}
}

// Two lines may share a name: one that never works is not forgotten because the other does, nor one that is under way.
func TestAnotherListOfVolumesIsAnotherJob(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("backup", "/pccehr"), 0, nil, fault.New(fault.NoSpace, "no room"))
	if _, err := d.Begin(job("backup", "/srv"), at(0)); err != nil {
		t.Fatal(err)
	}
	run(t, d, job("backup", "/dat", "/srv"), 1, &Good{ID: "1", Volumes: []string{"/dat", "/srv"}}, nil)
	if diff := cmp.Diff([]string{"backup /pccehr", "backup /srv", "backup /dat,/srv"}, names(t, d)); diff != "" {
		t.Error(diff)
	}
}

// A server that was renamed has its jobs under its new name.
func TestARenamedServersJobsAreReplaced(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("nightly", "/dat"), 0, nil, errors.New("no"))
	renamed := job("nightly", "/dat")
	renamed.Host = "db1.example.org"
	run(t, d, renamed, 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
	if list := listed(t, d); len(list) != 1 || list[0].Host != renamed.Host {
		t.Errorf("%+v", list)
	}
}

// Of two runs at once the later to begin is what is under way; the last good backup is the one that was made last.
func TestTwoRunsAtOnce(t *testing.T) {
	d := Dir(t.TempDir())
	first, err1 := d.Begin(job("nightly", "/dat"), at(0))
	other := job("nightly", "/dat")
	other.Unit = "rewind-2.service"
	second, err2 := d.Begin(other, at(1))
	if err := errors.Join(err1, err2, d.End(first, &Good{ID: "one", Volumes: []string{"/dat"}}, nil, at(2))); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; j.Ended != "" || j.Unit != other.Unit || j.Good == nil || j.Good.ID != "one" {
		t.Errorf("when the first has ended: %+v", j)
	}
	if err := d.End(second, nil, fault.New(fault.Locked, "the first is at work"), at(3)); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; !j.Failed() || j.Good == nil || j.Good.ID != "one" {
		t.Errorf("when both have: %+v", j)
	}
}

// A run that fails before it begins is one that failed.
func TestARunThatNeverBegan(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Missed(job("nightly", "/dat"), at(0), fault.New(fault.NotFound, "no environment_file")); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; !j.Failed() || j.Code != fault.NotFound || j.Begun != "2026-03-04T02:00:00Z" {
		t.Errorf("%+v", j)
	}
	run(t, d, job("nightly", "/dat"), 1, nil, fault.New(fault.NoSpace, "no room"))
	if err := d.Missed(job("nightly", "/dat"), at(1), fault.New(fault.Internal, "its caller says so")); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; j.Code != fault.NoSpace {
		t.Errorf("what a run wrote down itself is written over: %+v", j)
	}
}

func TestVolumesInAnotherOrderAreTheSameJob(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("nightly", "/dat", "/pccehr"), 0, nil, errors.New("no"))
	run(t, d, job("nightly", "/pccehr", "/dat"), 1, nil, errors.New("no"))
	if n := len(listed(t, d)); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestADamagedFileIsNamedBesideTheOthers(t *testing.T) {
	d := Dir(t.TempDir())
	run(t, d, job("nightly", "/dat"), 0, nil, errors.New("no"))
	damaged := filepath.Join(string(d), "damaged.json")
	if err := os.WriteFile(damaged, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := d.Jobs()
	if len(list) != 1 || err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("%+v, %v", list, err)
	}
}
