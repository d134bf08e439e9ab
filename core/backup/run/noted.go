package run

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"regexp"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/journey"
)

// noted writes into dir when a backup begins and what came of it; a check is no backup. That this cannot be written
// down fails none.
func noted(dir jobs.Dir, h journey.Handler) journey.Handler {
	do := h.Do
	h.Do = func(ctx context.Context, t *journey.Trip, data json.RawMessage) (ansible.Result, error) {
		var r Request
		if json.Unmarshal(data, &r) != nil || r.Check { // do says what is wrong
			return do(ctx, t, data)
		}
		job := r.job()
		job.Unit = t.Unit()
		begun, _ := dir.Begin(job, time.Now()) // its end meets the same trouble, and says so
		result, err := do(ctx, t, data)
		var good *jobs.Good
		if err == nil {
			good = new(jobs.Good)
			err = result.Into(good)
		}
		if failed := dir.End(begun, good, err, time.Now()); failed != nil {
			result.Warnings = append(result.Warnings, "what came of this backup cannot be written down: "+failed.Error())
		}
		return result, err
	}
	return h
}

// user is the user of a URL with the password, which must not be guessed from what is told of it.
var user = regexp.MustCompile(`//[^/@"]*@`)

// Missed writes down that a backup failed before it began: what failed later has done so itself.
func Missed(r Request, tried time.Time, err error) error {
	return jobs.Kept.Missed(r.job(), tried, err)
}

func (r Request) job() jobs.Job {
	job := jobs.Job{Name: r.Set, Backend: r.Use.Backend, Host: r.Use.Host}
	for _, v := range r.Volumes {
		job.Asked = append(job.Asked, v.Name)
	}
	options, _ := json.Marshal(r.Use.Options) // its keys are sorted
	hash := fnv.New32a()
	hash.Write(user.ReplaceAll(options, nil))
	job.Place = hex.EncodeToString(hash.Sum(nil))
	return job
}
