package jobs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

var start = time.Date(2026, 3, 4, 2, 0, 0, 0, time.UTC)

// hoursLater returns the time so many hours after start.
func hoursLater(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }

func job(name string, volumes ...string) Job {
	return Job{Name: name, Backend: "mirror", Host: "db1", Asked: volumes, Unit: "rewind-1.service"}
}

// runJob records a run of the job that lasts one hour and begins at the given hour after start.
func runJob(t *testing.T, d Dir, j Job, hour int, good *Good, failure error) {
	t.Helper()
	begun, err := d.Begin(j, hoursLater(hour))
	if err == nil {
		err = d.End(begun, good, failure, hoursLater(hour+1))
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

// listedJobs returns the name and the volumes of each job.
func listedJobs(t *testing.T, d Dir) (all []string) {
	for _, j := range listed(t, d) {
		all = append(all, j.Name+" "+strings.Join(j.Asked, ","))
	}
	return all
}

func TestFailureKeepsLastGoodBackup(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "made"))
	if list := listed(t, d); list != nil {
		t.Errorf("before the first: %+v", list)
	}
	good := Good{ID: "one", Time: "2026-03-04T02:00:01Z", Volumes: []string{"/dat"}, Files: 3, Bytes: 2, Stored: 1}
	stored := good
	runJob(t, d, job("nightly", "/dat"), 0, &stored, nil)
	runJob(t, d, job("nightly", "/dat"), 24, nil, fault.New(fault.NoSpace, "the repository is full"))
	good.Ended = "2026-03-04T03:00:00Z"
	want := job("nightly", "/dat")
	want.Begun, want.Ended = "2026-03-05T02:00:00Z", "2026-03-05T03:00:00Z"
	want.Code, want.Msg = fault.NoSpace, "the repository is full"
	want.Good = &good
	want.File = listed(t, d)[0].File
	if diff := cmp.Diff([]Job{want}, listed(t, d)); diff != "" {
		t.Error(diff)
	}
	if j := listed(t, d)[0]; !j.Failed() {
		t.Error("the last run is not said to have failed")
	}
	again := good
	runJob(t, d, job("nightly", "/dat"), 48, &again, nil)
	if j := listed(t, d)[0]; j.Failed() || j.Code != "" || j.Good.Ended != "2026-03-06T03:00:00Z" {
		t.Errorf("after a good run: %+v", j)
	}
}

// Of a run that was killed the file has only the begin.
func TestKilledRunHasNoEnd(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("nightly", "/dat"), 0, &Good{ID: "one", Volumes: []string{"/dat"}}, nil)
	if _, err := d.Begin(job("nightly", "/dat"), hoursLater(24)); err != nil {
		t.Fatal(err)
	}
	j := listed(t, d)[0]
	if j.Ended != "" || j.Begun != "2026-03-05T02:00:00Z" || j.Good == nil || j.Good.ID != "one" || j.Failed() {
		t.Errorf("%+v", j)
	}
}

// When the list of volumes of a job has been corrected or has grown, the next good run removes the job with the old
// list. Otherwise that job would stay as a failure for ever.
func TestGoodRunReplacesJobsItCovers(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("nightly", "/dta"), 0, nil, fault.New(fault.NotFound, "no /dta"))
	runJob(t, d, job("weekly", "/dat"), 0, &Good{ID: "w", Volumes: []string{"/dat"}}, nil)
	runJob(t, d, job("nightly", "/dat"), 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat", "weekly /dat"}, listedJobs(t, d)); diff != "" {
		t.Errorf("after the list was corrected: %s", diff)
	}
	runJob(t, d, job("nightly", "/dat", "/pccehr"), 2, nil, errors.New("no"))
	if diff := cmp.Diff([]string{"nightly /dat", "nightly /dat,/pccehr", "weekly /dat"}, listedJobs(t, d)); diff != "" {
		t.Errorf("after a longer list failed: %s", diff)
	}
	runJob(t, d, job("nightly", "/dat", "/pccehr"), 3, &Good{ID: "2", Volumes: []string{"/dat", "/pccehr"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat,/pccehr", "weekly /dat"}, listedJobs(t, d)); diff != "" {
		t.Errorf("after it succeeded: %s", diff)
	}
	runJob(t, d, job("nightly", "/pccehr"), 4, &Good{ID: "3", Volumes: []string{"/pccehr"}}, nil)
	if diff := cmp.Diff([]string{"nightly /dat,/pccehr", "nightly /pccehr", "weekly /dat"}, listedJobs(t, d)); diff != "" {
		t.Errorf("after a run without /dat: %s", diff)
	}
}

// A job whose volume is not there any more, or whose repository is not found, fails until somebody looks at it, however
// well another job of its name goes.
func TestLostVolumeOrRepositoryIsNoMisspelling(t *testing.T) {
	mountPoint := t.TempDir()
	for _, volume := range []string{mountPoint, "vg00/raw", "/dev/vg00/raw", "/dat"} {
		d := Dir(t.TempDir())
		lost := job("nightly", volume)
		lost.Place = "offsite"
		runJob(t, d, lost, 0, nil, fault.New(fault.NotFound, "not found"))
		runJob(t, d, job("nightly", "/dat"), 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
		if list := listed(t, d); len(list) != 2 || !list[0].Failed() {
			t.Errorf("%s: the failure is not listed any more: %+v", volume, list)
		}
	}
}

// A failure with one place stays listed after a success with another place.
func TestOtherPlaceIsOtherJob(t *testing.T) {
	d := Dir(t.TempDir())
	for i, change := range []func(*Job){func(j *Job) { j.Backend = "restic" }, func(j *Job) { j.Place = "offsite" }} {
		offsite := job("nightly", "/dat")
		change(&offsite)
		runJob(t, d, offsite, 0, nil, errors.New("wrong password"))
		runJob(t, d, job("nightly", "/dat"), 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
		if list := listed(t, d); len(list) != 2+i || !list[0].Failed() {
			t.Errorf("%+v", list)
		}
	}
}

// Two jobs with different volumes may have the same name. The good run of one does not remove the other, whose volumes
// it does not cover, nor a job that is under way.
func TestOtherVolumesAreOtherJob(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("backup", "/pccehr"), 0, nil, fault.New(fault.NoSpace, "no room"))
	if _, err := d.Begin(job("backup", "/srv"), hoursLater(0)); err != nil {
		t.Fatal(err)
	}
	runJob(t, d, job("backup", "/dat", "/srv"), 1, &Good{ID: "1", Volumes: []string{"/dat", "/srv"}}, nil)
	if diff := cmp.Diff([]string{"backup /pccehr", "backup /srv", "backup /dat,/srv"}, listedJobs(t, d)); diff != "" {
		t.Error(diff)
	}
}

// The first good run of a server that was renamed removes the job under its old name.
func TestRenamedServersJobsAreReplaced(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("nightly", "/dat"), 0, nil, errors.New("no"))
	renamed := job("nightly", "/dat")
	renamed.Host = "db1.example.org"
	runJob(t, d, renamed, 1, &Good{ID: "1", Volumes: []string{"/dat"}}, nil)
	if list := listed(t, d); len(list) != 1 || list[0].Host != renamed.Host {
		t.Errorf("%+v", list)
	}
}

// While two runs of one job overlap, the file describes the run that began last, and the good backup that ended last.
func TestOverlappingRunsOfOneJob(t *testing.T) {
	d := Dir(t.TempDir())
	first, err1 := d.Begin(job("nightly", "/dat"), hoursLater(0))
	other := job("nightly", "/dat")
	other.Unit = "rewind-2.service"
	second, err2 := d.Begin(other, hoursLater(1))
	good := &Good{ID: "one", Volumes: []string{"/dat"}}
	if err := errors.Join(err1, err2, d.End(first, good, nil, hoursLater(2))); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; j.Ended != "" || j.Unit != other.Unit || j.Good == nil || j.Good.ID != "one" {
		t.Errorf("when the first run has ended: %+v", j)
	}
	if err := d.End(second, nil, fault.New(fault.Locked, "the first is at work"), hoursLater(3)); err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; !j.Failed() || j.Good == nil || j.Good.ID != "one" {
		t.Errorf("when both runs have ended: %+v", j)
	}
}

// A backup that was made while the clock ran ahead is not the last good one after the clock was set right.
func TestLaterBackupReplacesOneDatedInFuture(t *testing.T) {
	d := Dir(t.TempDir())
	for i, hour := range []int{0, 5000, 24, 48} {
		runJob(t, d, job("nightly", "/dat"), hour, &Good{ID: strconv.Itoa(i), Volumes: []string{"/dat"}}, nil)
		if j := listed(t, d)[0]; j.Good.ID != strconv.Itoa(i) {
			t.Errorf("the last good backup is %s after number %d", j.Good.ID, i)
		}
	}
	runJob(t, d, job("nightly", "/dat"), 72, nil, errors.New("no"))
	if j := listed(t, d)[0]; j.Good.ID != "3" || !j.Failed() {
		t.Errorf("after a run that failed: %+v", j)
	}
}

// A run that failed before Begin counts as failed. Missed does not overwrite the outcome that a run wrote itself.
func TestMissedRecordsRunThatNeverBegan(t *testing.T) {
	d := Dir(t.TempDir())
	err := d.Missed(job("nightly", "/dat"), hoursLater(0), fault.New(fault.NotFound, "no environment_file"))
	if err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; !j.Failed() || j.Code != fault.NotFound || j.Begun != "2026-03-04T02:00:00Z" {
		t.Errorf("%+v", j)
	}
	runJob(t, d, job("nightly", "/dat"), 1, nil, fault.New(fault.NoSpace, "no room"))
	err = d.Missed(job("nightly", "/dat"), hoursLater(1), fault.New(fault.Internal, "its caller says so"))
	if err != nil {
		t.Fatal(err)
	}
	if j := listed(t, d)[0]; j.Code != fault.NoSpace {
		t.Errorf("the outcome that a run wrote itself is overwritten: %+v", j)
	}
}

func TestOrderOfVolumesDoesNotMatter(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("nightly", "/dat", "/pccehr"), 0, nil, errors.New("no"))
	runJob(t, d, job("nightly", "/pccehr", "/dat"), 1, nil, errors.New("no"))
	if n := len(listed(t, d)); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestJobsNamesDamagedFileAndListsOthers(t *testing.T) {
	d := Dir(t.TempDir())
	runJob(t, d, job("nightly", "/dat"), 0, nil, errors.New("no"))
	damaged := filepath.Join(string(d), "damaged.json")
	if err := os.WriteFile(damaged, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := d.Jobs()
	if len(list) != 1 || err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("%+v, %v", list, err)
	}
}

// The jobs of one place are found whatever their names and volumes are, and those of other places, hosts and backends
// are not.
func TestGoodBackupsOfOnePlace(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "made"))
	at := func(name, host, place, backend string) Job {
		return Job{Name: name, Host: host, Place: place, Backend: backend, Asked: []string{"/" + name}}
	}
	mine := at("new", "db1", "1", "mirror")
	if got := d.GoodAt(mine); len(got) > 0 {
		t.Errorf("before the first: %+v", got)
	}
	for hour, j := range []Job{
		at("early", "db1", "1", "mirror"), at("late", "db1", "1", "mirror"), at("other", "db2", "1", "mirror"),
		at("other", "db1", "2", "mirror"), at("other", "db1", "1", "rsync"),
	} {
		runJob(t, d, j, hour, &Good{ID: j.Name, Volumes: j.Asked}, nil)
	}
	runJob(t, d, at("failed", "db1", "1", "mirror"), 9, nil, fault.New(fault.NoSpace, "full"))
	var names []string
	for _, j := range d.GoodAt(mine) {
		names = append(names, j.Name)
	}
	if diff := cmp.Diff([]string{"late", "early"}, names); diff != "" {
		t.Error(diff)
	}
}
