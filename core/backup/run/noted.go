package run

import (
	"context"
	"encoding/json"
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
		job := jobs.Job{Name: r.Set, Backend: r.Use.Backend, Host: r.Use.Host, Unit: t.Unit()}
		for _, v := range r.Volumes {
			job.Asked = append(job.Asked, v.Name)
		}
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
