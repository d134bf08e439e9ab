package run

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/journey"
)

// recordOutcome returns a handler that writes to dir when a backup begins and what came of it, except for a check. If
// that cannot be written, the backup has a warning and does not fail.
func recordOutcome(dir jobs.Dir, h journey.Handler) journey.Handler {
	do := h.Do
	h.Do = func(ctx context.Context, t *journey.Run, data json.RawMessage) (ansible.Result, error) {
		var r Request
		if json.Unmarshal(data, &r) != nil || r.Check { // do reports the error
			return do(ctx, t, data)
		}
		job := r.job()
		job.Unit = t.Unit()
		begun, _ := dir.Begin(job, time.Now()) // if this fails, End fails for the same reason, which is reported
		result, err := do(ctx, t, data)
		var good *jobs.Good
		if err == nil {
			good = new(jobs.Good)
			err = result.Into(good)
		}
		if endErr := dir.End(begun, good, err, time.Now()); endErr != nil {
			result.Warnings = append(result.Warnings, "what came of this backup cannot be written down: "+endErr.Error())
		}
		return result, err
	}
	return h
}

// urlUser matches the user and the password in a URL. They are left out of the hash of the place, because the password
// could be guessed from that hash.
var urlUser = regexp.MustCompile(`//[^/@"]*@`)

// Missed writes that the backup which the caller tried to start at tried failed before it began. A backup that did
// begin has written its own outcome, which Missed leaves alone.
func Missed(r Request, tried time.Time, err error) error {
	return jobs.Kept.Missed(r.job(), tried, err)
}

// howNotWhere are the options, of any backend, that say how it works and not where the backups are. Whoever limits the
// bandwidth, or moves the cache, goes on with the same backups.
var howNotWhere = []string{
	"accept_new_host_key", "cache", "known_hosts", "limit_download", "limit_upload", "password_file", "scratch", "ssh_key",
}

// job returns the job of the request, with a hash of the options that choose the place.
func (r Request) job() jobs.Job {
	job := jobs.Job{Name: r.Set, Backend: r.Use.Backend, Host: r.Use.Host}
	for _, v := range r.Volumes {
		job.Asked = append(job.Asked, v.Name)
	}
	where := maps.Clone(r.Use.Options)
	maps.DeleteFunc(where, func(name string, _ any) bool { return slices.Contains(howNotWhere, name) })
	options, _ := json.Marshal(where) // with sorted keys, so that equal options have an equal hash
	hash := fnv.New32a()
	hash.Write(urlUser.ReplaceAll(options, nil))
	job.Place = hex.EncodeToString(hash.Sum(nil))
	return job
}
