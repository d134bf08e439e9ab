// Package jobs keeps on the server what came of its last backups, so that whoever wants to know how a server stands
// asks no repository.
//
// There is one file for each job: backups of one name, with one backend, of the same volumes. It is written when a
// backup begins and when it ends; one that says no end is of a run that is under way or was killed.
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
	Unit    string     `json:"unit"`    // of systemd, that the last run had
	Begun   string     `json:"begun"`
	Ended   string     `json:"ended,omitempty"`
	Code    fault.Code `json:"code,omitempty"` // why the last run failed
	Msg     string     `json:"msg,omitempty"`
	Good    *Good      `json:"good,omitempty"` // nil: no run succeeded
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

// End writes down what came of the run: good, or the error. Files of jobs that this one has taken the place of are
// removed: those of its name and backend that never had a backup, and after a good one those of volumes that it has all
// of.
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
	if err := d.write(j); err != nil {
		return err
	}
	return d.replace(j)
}

func (d Dir) replace(j *Job) error {
	jobs, _ := d.Jobs() // what cannot be read stays, and is named where it is looked at
	for _, old := range jobs {
		if old.Name != j.Name || old.Backend != j.Backend || old.Host != j.Host || d.path(&old) == d.path(j) {
			continue
		}
		within := func(volume string) bool { return slices.Contains(j.Good.Volumes, volume) }
		covered := old.Good != nil && !j.Failed() && all(old.Good.Volumes, within)
		if old.Good == nil || covered {
			if err := durable.Remove(d.path(&old)); err != nil {
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
	return &j, nil
}

func (d Dir) write(j *Job) error {
	if err := durable.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
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
	hash.Write([]byte(strings.Join(append([]string{j.Backend, j.Host}, volumes...), "\x00")))
	return filepath.Join(string(d), j.Name+"-"+hex.EncodeToString(hash.Sum(nil))+suffix)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
