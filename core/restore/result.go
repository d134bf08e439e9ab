package restore

import (
	"fmt"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// Volume is what a result says of one volume. Sizes are bytes.
type Volume struct {
	Volume   string `json:"volume"`   // vg/lv
	Path     string `json:"path"`     // in the backup
	Snapshot string `json:"snapshot"` // vg/lv
	Least    int64  `json:"need_least_bytes"`
	Most     int64  `json:"need_most_bytes"`

	Compared int64 `json:"compared_bytes"`
	Written  int64 `json:"written_bytes"`
	Used     int64 `json:"cow_used_bytes"` // by all that was written to snapshot and origin
	Created  int64 `json:"created"`
	Changed  int64 `json:"changed"`
	Deleted  int64 `json:"deleted"`
	Metadata int64 `json:"metadata"` // entries whose owner, mode, time or attributes were set
}

// size gives each volume the COW space that it will need, and refuses before anything is created what cannot fit.
func (w *work) size() error {
	if w.planned.Existing {
		return nil
	}
	if w.Size != "" {
		return w.planned.Resize() // of an instant after the comparison
	}
	var wrong []error
	least, count := map[string]int64{}, map[string]int64{}
	reserved := w.planned.Reserved()
	for _, t := range w.planned.Targets {
		count[t.LV.VG]++
	}
	for i := range w.planned.Targets {
		t := &w.planned.Targets[i]
		if t.LV.Kind == lvm.Thin {
			continue
		}
		least[t.LV.VG] += w.needs[i].Least + 2*floor
		if t.Size == "" {
			share := (t.Group.Free - reserved[t.LV.VG]) / count[t.LV.VG] / 10 * 9
			t.Size = fmt.Sprintf("%db", min(w.wanted(i), max(share, 2*floor)))
		}
	}
	for i := range w.planned.Targets {
		group := w.planned.Targets[i].Group
		need, ok := least[group.Name]
		need += reserved[group.Name]
		if ok && need > group.Free {
			wrong = append(wrong, fault.New(fault.NoSpace, "restoring backup %s writes at least %s to snapshots in volume group %s, which has %s free",
				w.stored.ID, ansible.Bytes(need), group.Name, ansible.Bytes(group.Free)).
				With("space", []map[string]any{{"vg": group.Name, "free_bytes": group.Free, "need_bytes": need}}).
				WithHint("add a physical volume (vgextend %s), remove old snapshots, or restore fewer volumes at once", group.Name))
		}
		delete(least, group.Name)
	}
	if err := fault.All(wrong...); err != nil {
		return err
	}
	return w.planned.Resize()
}

// wanted is the COW space for the need of a target: what may be written, the exception store's own share of it (one part
// in 256), what the file system writes besides, and room for what the origin is written meanwhile. A set that waits for
// somebody to look at it is given no less than any other.
func (w *work) wanted(i int) int64 {
	n := w.needs[i].Most
	room := n + n/16 + 4*floor
	if w.Merge {
		return room
	}
	return max(room, snapset.DefaultCOW(w.planned.Targets[i].LV.Size))
}

// plan is the result of a check.
func (w *work) plan() ansible.Result {
	var least, most int64
	for _, n := range w.needs {
		least, most = least+n.Least, most+n.Most
	}
	result := ansible.Result{Changed: most > 0, Data: w.data(), Commands: w.commands.Commands(), Warnings: w.warnings}
	result.Msg = fmt.Sprintf("would restore backup %s of %s into set %s of %s, writing %s to %s", w.stored.ID,
		w.stored.Time.Format(time.RFC3339), w.Set, strings.Join(names(w.planned.Targets), ", "), ansible.Bytes(least), ansible.Bytes(most))
	if w.Merge {
		result.Msg += ", and roll back to it"
	}
	return result
}

// result is what was restored.
func (w *work) result() ansible.Result {
	result := ansible.Result{Changed: true, Data: w.data(), Commands: w.commands.Commands(), Warnings: w.warnings}
	var written int64
	for _, d := range w.done {
		written += d.Written
		result.Warnings = append(result.Warnings, d.Warnings...)
	}
	result.Warnings = append(result.Warnings, w.flagsLost()...)
	result.Data["discarded_since"] = w.stored.Time.UTC().Format(time.RFC3339) // what was written since then differs, and goes
	result.Msg = fmt.Sprintf("restored backup %s of %s into set %s, writing %s", w.stored.ID, w.stored.Time.Format(time.RFC3339),
		w.Set, ansible.Bytes(written))
	if !w.Merge {
		result.Msg += fmt.Sprintf("; lvm_merge name=%s puts it in place", w.Set)
	}
	return result
}

func (w *work) data() map[string]any {
	var volumes []Volume
	for i := range w.planned.Targets {
		t := &w.planned.Targets[i]
		v := Volume{Volume: t.LV.FullName(), Path: run.Root(t), Least: w.needs[i].Least, Most: w.needs[i].Most}
		if w.own != nil {
			v.Snapshot, v.Used = w.own.Parts[i].Snapshot.FullName(), w.own.Parts[i].Snapshot.COWUsed
		}
		if i < len(w.done) {
			d := w.done[i]
			v.Compared, v.Written, v.Created, v.Changed, v.Deleted, v.Metadata = d.Compared, d.Written, d.Created, d.Changed, d.Deleted, d.Metadata
		}
		volumes = append(volumes, v)
	}
	return map[string]any{
		"backend": w.Use.Backend, "restore_id": w.stored.ID, "backup_time": w.stored.Time.UTC().Format(time.RFC3339),
		"name": w.Set, "restored": volumes, "restore_ms": time.Since(w.begun).Milliseconds(),
	}
}
