package restore

import (
	"fmt"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/access"
)

// Volume is what a result says of one volume.
type Volume struct {
	Volume   string `json:"volume"`           // the origin, vg/lv
	Path     string `json:"path"`             // the volume's name in the backup
	Snapshot string `json:"snapshot"`         // vg/lv
	Least    int64  `json:"need_least_bytes"` // the estimate of what is written
	Most     int64  `json:"need_most_bytes"`

	Compared int64 `json:"compared_bytes"` // read from the backup
	Written  int64 `json:"written_bytes"`
	Used     int64 `json:"cow_used_bytes"` // of the snapshot, by writes to it and to its origin
	Created  int64 `json:"created"`        // this and the next two: files and directories
	Changed  int64 `json:"changed"`
	Deleted  int64 `json:"deleted"`
	Metadata int64 `json:"metadata"` // files and directories of which only owner, mode, time or attributes were set
}

// answers makes the results of a restore.
type answers struct{ *restoreRun }

// check returns what a restore would do.
func (r answers) check() ansible.Result {
	var least, most int64
	for _, n := range r.needs {
		least, most = least+n.Least, most+n.Most
	}
	result := ansible.Result{
		Changed: most > 0, Data: r.data(), Commands: r.commands.Commands(), Warnings: r.warnings,
	}
	result.Msg = fmt.Sprintf("would restore backup %s of %s into set %s of %s, writing %s to %s", r.backup.ID,
		r.backup.Time.Format(time.RFC3339), r.Set, strings.Join(targetNames(r.planned.Targets), ", "),
		ansible.Bytes(least), ansible.Bytes(most))
	if r.Merge {
		result.Msg += ", and roll back to it"
	}
	return result
}

// result returns what was restored.
func (r answers) result() ansible.Result {
	result := ansible.Result{
		Changed: true, Data: r.data(), Commands: r.commands.Commands(), Warnings: r.warnings,
	}
	var written int64
	for _, d := range r.synced {
		written += d.Written
		result.Warnings = append(result.Warnings, d.Warnings...)
	}
	result.Warnings = append(result.Warnings, r.lostFlagsWarnings()...)
	// A rollback to the set discards what was written to the volumes since the backup.
	result.Data["discarded_since"] = r.backup.Time.UTC().Format(time.RFC3339)
	result.Msg = fmt.Sprintf("restored backup %s of %s into set %s, writing %s", r.backup.ID,
		r.backup.Time.Format(time.RFC3339), r.Set, ansible.Bytes(written))
	if !r.Merge {
		result.Msg += fmt.Sprintf("; lvm_merge name=%s puts it in place", r.Set)
	}
	return result
}

func (r answers) data() map[string]any {
	var volumes []Volume
	for i := range r.planned.Targets {
		t := &r.planned.Targets[i]
		v := Volume{Volume: t.LV.FullName(), Path: access.Root(t), Least: r.needs[i].Least, Most: r.needs[i].Most}
		if r.ownSet != nil {
			v.Snapshot, v.Used = r.ownSet.Parts[i].Snapshot.FullName(), r.ownSet.Parts[i].Snapshot.COWUsed
		}
		if i < len(r.synced) {
			d := r.synced[i]
			v.Compared, v.Written = d.Compared, d.Written
			v.Created, v.Changed, v.Deleted, v.Metadata = d.Created, d.Changed, d.Deleted, d.Metadata
		}
		volumes = append(volumes, v)
	}
	return map[string]any{
		"backend": r.Use.Backend, "restore_id": r.backup.ID, "backup_time": r.backup.Time.UTC().Format(time.RFC3339),
		"name": r.Set, "restored": volumes, "restore_ms": time.Since(r.started).Milliseconds(),
	}
}
