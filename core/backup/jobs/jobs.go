// Package jobs keeps on the server what came of its last backups, so that whoever wants to know how a server stands
// asks no repository.
//
// There is one file for each job: backups of one name, of the same volumes, to one place: a backend and its options. It is
// written when a backup begins and when it ends; one that says no end is of a run that is under way or was killed.
package jobs

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Job is what the last backups of one kind came to. Times are RFC 3339.
type Job struct {
	Name    string     `json:"name"` // of the set
	Backend string     `json:"backend"`
	Host    string     `json:"host"`    // whose backups they are
	Asked   []string   `json:"volumes"` // as they were asked for
	Place   string     `json:"place"`   // what tells the backend's options from others; no secret is in it
	Unit    string     `json:"unit"`    // of systemd, that the last run had
	Begun   string     `json:"begun"`
	Ended   string     `json:"ended,omitempty"`
	Code    fault.Code `json:"code,omitempty"` // why the last run failed
	Msg     string     `json:"msg,omitempty"`
	Good    *Good      `json:"good,omitempty"` // nil: no run succeeded
	File    string     `json:"file"`           // which this is in
}

// Good is the last backup that succeeded.
type Good struct {
	ID      string   `json:"id"`
	Time    string   `json:"time"`  // the instant that it is of
	Ended   string   `json:"ended"` // when it was complete
	Volumes []string `json:"volumes"`
	Files   int64    `json:"files"`
	Bytes   int64    `json:"bytes"`
	Stored  int64    `json:"stored_bytes"` // what was new to the repository
}

// Failed says whether the last run has ended without a backup.
func (j *Job) Failed() bool { return j.Code != "" }

const suffix = ".json"

// Dir is the directory of the files, which is made when it is needed.
type Dir string

// Kept is where a server has them.
const Kept = Dir(journey.State + "/jobs")

// Begin writes down that a run of the job begins, and takes over what is known of earlier ones.
func (d Dir) Begin(j Job, now time.Time) (*Job, error) {
	if before, err := read(d.path(&j)); err == nil {
		j.Good = before.Good
	}
	j.Begun = stamp(now)
	return &j, d.write(&j)
}

// End writes down what came of the run: good, or the error. Another run of the job may have begun meanwhile: then it
// says what is under way, and this one which backup is the last good one. After a good run the files of jobs that it has
// taken the place of are removed.
func (d Dir) End(j *Job, good *Good, err error, now time.Time) error {
	j.Ended = stamp(now)
	switch {
	case err != nil:
		f := fault.Of(err)
		j.Code, j.Msg = f.Code, f.Msg
	case good != nil:
		good.Ended = j.Ended
		j.Good = good
	}
	written := j
	if there, err := read(d.path(j)); err == nil {
		if there.Good != nil && (j.Good == nil || j.Good.Ended < there.Good.Ended) {
			j.Good = there.Good
		}
		if there.Unit != j.Unit {
			there.Good = j.Good
			written = there
		}
	}
	if err := d.write(written); err != nil || good == nil {
		return err
	}
	return d.replace(j)
}

// Missed writes down a run that failed before it began: since when it was tried, and why. One that did begin has written
// down what came of it.
func (d Dir) Missed(j Job, tried time.Time, err error) error {
	if there, failed := read(d.path(&j)); failed == nil && (there.Ended == "" || there.Ended >= stamp(tried)) {
		return nil
	}
	begun, failed := d.Begin(j, tried)
	if failed != nil {
		return failed
	}
	return d.End(begun, nil, err, time.Now())
}

// replace removes the jobs of the same name and place that a good run has all volumes of, whatever the server was called
// then, and of whatever place those that asked for what there is not: a word in the options was misspelt, too.
func (d Dir) replace(j *Job) error {
	jobs, _ := d.Jobs() // what cannot be read stays, and is named where it is looked at
	within := func(volume string) bool {
		return slices.Contains(j.Good.Volumes, volume) || slices.Contains(j.Asked, volume)
	}
	for _, old := range jobs {
		if old.Name != j.Name || old.Backend != j.Backend || old.Ended == "" || old.File == d.path(j) {
			continue
		}
		had := old.Asked
		if old.Good != nil {
			had = old.Good.Volumes
		}
		mistaken := old.Good == nil && (old.Code == fault.NotFound || old.Code == fault.BadArguments)
		if old.Place == j.Place && all(had, within) || mistaken {
			if err := durable.Remove(old.File); err != nil {
				return err
			}
		}
	}
	return nil
}

func all(list []string, ok func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !ok(s) })
}

// Jobs are all there are, by name. The error names files that cannot be read, beside those that can.
func (d Dir) Jobs() ([]Job, error) {
	files, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var jobs []Job
	wrong := []error{err}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), suffix) {
			continue
		}
		job, err := read(filepath.Join(string(d), file.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			wrong = append(wrong, err)
		default:
			jobs = append(jobs, *job)
		}
	}
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Begun, b.Begun)) })
	return jobs, fault.All(wrong...)
}

func read(path string) (*Job, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var j Job
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, fault.New(fault.Internal, "what came of a backup cannot be read: %s: %w", path, err).
			WithHint("the next backup of that name writes it anew, or remove it")
	}
	j.File = path
	return &j, nil
}

func (d Dir) write(j *Job) error {
	if err := durable.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	j.File = d.path(j)
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return durable.WriteFile(d.path(j), data, 0o600)
}

// path is the job's file: its name, and a hash of what else tells it from others.
func (d Dir) path(j *Job) string {
	volumes := slices.Sorted(slices.Values(j.Asked))
	hash := fnv.New32a() // tells jobs apart, no more: only root names them
	hash.Write([]byte(strings.Join(append([]string{j.Backend, j.Host, j.Place}, volumes...), "\x00")))
	return filepath.Join(string(d), j.Name+"-"+hex.EncodeToString(hash.Sum(nil))+suffix)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
