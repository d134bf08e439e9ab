package snapset

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
)

// keep makes an existing set what is asked for: the same volumes, valid, and at least as large.
func (w *work) keep(ctx context.Context) (ansible.Result, error) {
	if err := w.same(); err != nil {
		return ansible.Result{}, err
	}
	if err := w.set.Check(); err != nil {
		if !w.Replace || fault.Of(err).Code != fault.SnapshotInvalid {
			return ansible.Result{}, err
		}
		if w.set.Use == ForRestore { // by its name people take it for the backup that it held
			return ansible.Result{}, fault.New(fault.SnapshotInvalid, "set %s held a backup, and taken anew it would hold what "+
				"the volumes hold now: %w", w.Set, err).
				WithHint("lvm_snapshot name=%[1]s state=absent removes it, and snap_backup action=restore name=%[1]s "+
					"restores again", w.Set)
		}
		return w.replace(ctx)
	}
	if merging := w.merging(); merging != "" {
		return ansible.Result{}, fault.New(fault.Merging, "set %s is being rolled back: %s is merging", w.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", w.Set)
	}
	if w.set.Each && !w.Each && len(w.targets) > 0 {
		return ansible.Result{}, fault.New(fault.SetDiffers, "set %s exists, and is of no common instant: each volume was "+
			"taken by itself", w.Set).
			WithHint("choose another name, remove it first (lvm_snapshot name=%s state=absent), or say that it is what is "+
				"asked for: consistency=volume", w.Set)
	}
	return w.extend(ctx)
}

// same refuses to take a set of other volumes for the one that is asked for.
func (w *work) same() error {
	if len(w.targets) == 0 {
		return nil
	}
	have := map[string]bool{}
	for _, v := range w.set.Snapshots {
		have[v.VG+"/"+v.Origin] = true
	}
	var missing []string
	for _, t := range w.targets {
		if !have[t.LV.FullName()] {
			missing = append(missing, t.LV.FullName())
		}
		delete(have, t.LV.FullName())
	}
	var extra []string
	for name := range have {
		extra = append(extra, name)
	}
	goes := w.State == Absent || w.State == Unmounted
	if !w.set.Complete() { // that is Check's to report; what is missing may have been a member
		missing = nil
		if !goes {
			return nil
		}
	}
	if len(missing)+len(extra) == 0 {
		return nil
	}
	f := fault.New(fault.SetDiffers, "set %s exists, taken %s, but not of these volumes", w.Set, w.set.Time.Local().Format(time.RFC3339))
	if len(missing) > 0 {
		f.Msg += "; it has no snapshot of " + strings.Join(unique(missing), ", ")
	}
	if len(extra) > 0 {
		f.Msg += "; it also has one of " + strings.Join(unique(extra), ", ")
	}
	if goes {
		return f.WithHint("leave volumes out to have the whole set %s, or name another set", w.State)
	}
	return f.WithHint("choose another name, or remove it first: lvm_snapshot name=%s state=absent", w.Set)
}

func (w *work) merging() string {
	for _, v := range w.set.Snapshots {
		if v.Merging {
			return v.FullName()
		}
	}
	return ""
}

// replace removes an overflowed set and takes it anew, of the same volumes unless others are named.
func (w *work) replace(ctx context.Context) (ansible.Result, error) {
	if err := w.removable(); err != nil {
		return ansible.Result{}, err
	}
	if len(w.targets) == 0 {
		if err := w.targetsOfSet(); err != nil {
			return ansible.Result{}, err
		}
	}
	before := list(w.set)
	if !w.Check {
		if err := w.remove(ctx); err != nil {
			return ansible.Result{}, err
		}
		if _, err := w.see(ctx); err != nil {
			return ansible.Result{}, err
		}
	} else {
		w.forget()
	}
	result, err := w.create(ctx)
	if result.Diff != nil {
		result.Diff.Before = lines(before)
	}
	return result, err
}

// forget takes the set out of the view, for a plan of what would be done after its removal.
func (w *work) forget() {
	for _, s := range w.set.Snapshots {
		group, _ := w.view.Report.Group(s.VG)
		group.Free += s.Size
		var rest []lvm.Volume
		for _, v := range group.Volumes {
			if v.UUID != s.UUID {
				rest = append(rest, v)
			}
		}
		group.Volumes = rest
	}
}

// targetsOfSet makes the origins of the set the targets, where the user named none.
func (w *work) targetsOfSet() error {
	for _, v := range w.set.Snapshots {
		w.Volumes = append(w.Volumes, Volume{Name: v.VG + "/" + v.Origin})
	}
	var err error
	w.targets, err = w.view.Resolve(w.Volumes)
	return err
}

// extend gives snapshots that are smaller than asked for more COW space. It never shrinks one.
func (w *work) extend(ctx context.Context) (ansible.Result, error) {
	if len(w.targets) == 0 && w.Size != "" {
		if err := w.targetsOfSet(); err != nil {
			return ansible.Result{}, err
		}
	}
	more, err := w.larger()
	if err != nil {
		return ansible.Result{}, err
	}
	if len(more) == 0 {
		return describe(w.set, false, fmt.Sprintf("set %s is there, taken %s", w.Set, w.set.Time.Local().Format(time.RFC3339))), nil
	}
	before := list(w.set)
	if !w.Check {
		if err := w.grow(ctx, more); err != nil {
			return ansible.Result{}, err
		}
	}
	for _, v := range w.set.Snapshots {
		if size, ok := more[v.FullName()]; ok {
			v.COWSize = size
		}
	}
	result := describe(w.set, true, fmt.Sprintf("extended set %s", w.Set))
	result.Diff = setDiff(w.Set, before, list(w.set))
	return result, nil
}

// grow extends snapshots to these sizes. The journal has their origins, which a killed lvextend leaves suspended, and
// no id of a set that would be removed.
func (w *work) grow(ctx context.Context, sizes map[string]int64) error {
	plan := &Plan{Set: w.Set, Members: w.set.origins()}
	if err := w.trip.Begin(Kind, w.Set, w.set.Groups(), "extending", plan); err != nil {
		return err
	}
	for _, v := range w.set.Snapshots {
		size, ok := sizes[v.FullName()]
		if !ok {
			continue
		}
		if err := w.lvm.Extend(ctx, v.FullName(), size); err != nil {
			err = fault.New(fault.Of(err).Code, "extend %s to %s: %w", v.FullName(), ansible.Bytes(size), err)
			return w.failed(fault.All(err, undone(ctx, w.lvm, plan)))
		}
	}
	return w.trip.Finish("extended", journal.Done, nil)
}

// larger returns the new sizes of the snapshots that are smaller than asked for, after checking that all fit.
func (w *work) larger() (map[string]int64, error) {
	more, need := map[string]int64{}, map[string]int64{}
	for i := range w.targets {
		t := &w.targets[i]
		asked, err := askedSize(Want{Size: w.Size}, t)
		if err != nil {
			return nil, err
		}
		v := w.snapshotOf(t.LV)
		if v == nil || v.Kind == lvm.Thin {
			continue
		}
		asked = min(asked, lvm.MaxCOW(t.LV.Size, v.ChunkSize, t.Group.ExtentSize))
		if asked > v.COWSize {
			more[v.FullName()] = asked
			need[v.VG] += asked - v.COWSize
		}
	}
	var wrong []error
	for group, bytes := range need {
		g, _ := w.view.Report.Group(group)
		if bytes > g.Free {
			wrong = append(wrong, noRoom(g, bytes).WithHint("ask for less, or extend the group (vgextend %s)", g.Name))
		}
	}
	return more, fault.All(wrong...)
}

func (w *work) snapshotOf(origin *lvm.Volume) *lvm.Volume {
	for _, v := range w.set.Snapshots {
		if v.VG == origin.VG && v.Origin == origin.Name {
			return v
		}
	}
	return nil
}
