// Package jobs keeps the outcome of the last backups in files on the server, so that nobody has to ask the repository
// for it.
//
// A job is all backups of one name, one list of volumes and one place (a backend with its options). Each job has one
// file, which is written when a backup begins and when it ends. A file without an end belongs to a run that is under
// way or was killed.
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
	"sort"
	"strings"
	"time"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Job is the outcome of the last runs of one job. Times have the format of RFC 3339.
type Job struct {
	Name    string     `json:"name"` // of the set
	Backend string     `json:"backend"`
	Host    string     `json:"host"`    // the host whose backups these are
	Asked   []string   `json:"volumes"` // as the user named them
	Place   string     `json:"place"`   // a hash of the backend's options, without secrets; it tells places apart
	Unit    string     `json:"unit"`    // the systemd unit of the last run
	Begun   string     `json:"begun"`
	Ended   string     `json:"ended,omitempty"` // empty while the last run is under way, or if it was killed
	Code    fault.Code `json:"code,omitempty"`  // why the last run failed
	Msg     string     `json:"msg,omitempty"`   // why the last run failed
	Good    *Good      `json:"good,omitempty"`  // nil if no run has succeeded
	File    string     `json:"file"`            // the path of the job's file
}

// Good is the last backup that succeeded.
type Good struct {
	ID      string   `json:"id"`
	Time    string   `json:"time"`  // the instant of its set
	Ended   string   `json:"ended"` // when it was complete
	Volumes []string `json:"volumes"`
	Files   int64    `json:"files"`
	Bytes   int64    `json:"bytes"`
	Stored  int64    `json:"stored_bytes"` // bytes by which the repository grew
}

// Failed reports whether the last run has ended without a backup.
func (j *Job) Failed() bool { return j.Code != "" }

const suffix = ".json"

// Dir is the directory of the jobs' files. Writing the first file makes it.
type Dir string

// Kept is the directory that all programs on a server use.
const Kept = Dir(journey.StateDir + "/jobs")

// Begin writes that a run of the job begins, and keeps what is known of the last good backup. It returns the job to be
// passed to End.
func (d Dir) Begin(j Job, now time.Time) (*Job, error) {
	if before, err := read(d.path(&j)); err == nil {
		j.Good = before.Good
	}
	j.Begun = formatTime(now)
	return &j, d.write(&j)
}

// End writes the outcome of the run: good, or else err. If another run of the job has begun meanwhile, the file goes on
// to describe that run, and End updates only the last good backup. After a good run End removes the files of the jobs
// that this one replaces.
func (d Dir) End(j *Job, good *Good, err error, now time.Time) error {
	known := j.Good // when the run began
	j.Ended = formatTime(now)
	switch {
	case err != nil:
		f := fault.Of(err)
		j.Code, j.Msg = f.Code, f.Msg
	case good != nil:
		good.Ended = j.Ended
		j.Good = good
	}
	written := j
	if current, err := read(d.path(j)); err == nil {
		// Only a backup that another run has made meanwhile counts here. Times of earlier runs are not compared with this
		// one's: the clock may have been wrong then.
		if made := current.Good; made != nil && (known == nil || made.ID != known.ID) &&
			(good == nil || good.Ended < made.Ended && made.Ended <= j.Ended) {
			j.Good = made
		}
		if current.Unit != j.Unit {
			current.Good = j.Good
			written = current
		}
	}
	if err := d.write(written); err != nil || good == nil {
		return err
	}
	return d.removeReplaced(j)
}

// Missed writes that a run which the caller began at tried failed before Begin was called, and why. It changes nothing
// if a run has begun or ended since tried, because that run writes its own outcome.
func (d Dir) Missed(j Job, tried time.Time, err error) error {
	current, readErr := read(d.path(&j))
	endedSince := current != nil && current.Ended >= formatTime(tried) && current.Ended <= formatTime(time.Now())
	if readErr == nil && (current.Ended == "" || endedSince) {
		return nil
	}
	begun, readErr := d.Begin(j, tried)
	if readErr != nil {
		return readErr
	}
	return d.End(begun, nil, err, time.Now())
}

// removeReplaced removes the files of the jobs that the good run of j replaces. These are jobs of the same name and
// backend that are not under way, of two kinds: those with the same place, whatever the server's name was, all of whose
// volumes the good run covers; and those with any place that never succeeded and whose call was misspelt.
func (d Dir) removeReplaced(j *Job) error {
	jobs, _ := d.Jobs() // a file that cannot be read stays; whoever lists the jobs sees the error
	covered := func(volume string) bool {
		return slices.Contains(j.Good.Volumes, volume) || slices.Contains(j.Asked, volume)
	}
	for _, old := range jobs {
		if old.Name != j.Name || old.Backend != j.Backend || old.Ended == "" || old.File == d.path(j) {
			continue
		}
		volumes := old.Asked
		if old.Good != nil {
			volumes = old.Good.Volumes
		}
		if old.Place == j.Place && every(volumes, covered) || old.wasMisspelt(covered) {
			if err := durable.Remove(old.File); err != nil {
				return err
			}
		}
	}
	return nil
}

// wasMisspelt is true if the job never succeeded and its last run failed because an option was not accepted, or a mount
// point was not found of which there is no directory. A volume that was lost leaves the directory that it was mounted
// on, so its failure stays; so does that of a device or a repository that was not found.
func (j *Job) wasMisspelt(covered func(volume string) bool) bool {
	missing := func(volume string) bool {
		_, err := os.Lstat(volume)
		return strings.HasPrefix(volume, "/") && !strings.HasPrefix(volume, "/dev/") && errors.Is(err, fs.ErrNotExist)
	}
	switch {
	case j.Good != nil:
		return false
	case j.Code == fault.NotFound:
		uncovered := slices.DeleteFunc(slices.Clone(j.Asked), covered)
		return len(uncovered) > 0 && every(uncovered, missing)
	}
	return j.Code == fault.BadArguments
}

// every reports whether holds is true for every element of the list.
func every(list []string, holds func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !holds(s) })
}

// Jobs returns all jobs, sorted by name and begin. If files cannot be read, it returns the jobs of the others together
// with an error that names these files.
func (d Dir) Jobs() ([]Job, error) {
	files, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var jobs []Job
	errs := []error{err}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), suffix) {
			continue
		}
		job, err := read(filepath.Join(string(d), file.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			jobs = append(jobs, *job)
		}
	}
	sort.Slice(jobs, func(i, j int) bool { // slices.SortFunc would be 10 KB of the program
		a, b := jobs[i], jobs[j]
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Begun, b.Begun)) < 0
	})
	return jobs, fault.All(errs...)
}

// GoodAt returns the jobs of the host and the place of j, whatever their names and volumes are, that have had a good
// backup. The one whose good backup was complete last comes first. A file that cannot be read is left out.
func (d Dir) GoodAt(j Job) []Job {
	jobs, _ := d.Jobs()
	var good []Job
	for _, other := range jobs {
		if other.Good != nil && other.Backend == j.Backend && other.Host == j.Host && other.Place == j.Place {
			good = append(good, other)
		}
	}
	sort.SliceStable(good, func(a, b int) bool { return good[a].Good.Ended > good[b].Good.Ended })
	return good
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

// path returns the path of the job's file. Its name consists of the job's name and a hash of what else identifies the
// job.
func (d Dir) path(j *Job) string {
	volumes := slices.Sorted(slices.Values(j.Asked))
	hash := fnv.New32a() // it need not be cryptographic, because only root chooses what is hashed
	hash.Write([]byte(strings.Join(append([]string{j.Backend, j.Host, j.Place}, volumes...), "\x00")))
	return filepath.Join(string(d), j.Name+"-"+hex.EncodeToString(hash.Sum(nil))+suffix)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
