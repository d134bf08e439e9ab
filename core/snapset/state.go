package snapset

import (
	"context"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
)

// keep makes an existing set what is asked for: the same volumes, valid, and at least as large.
func (w *work) keep(ctx context.Context) (ansible.Result, error) {
	if err := w.same(); err != nil {
		return ansible.Result{}, err
	}
	if err := w.set.Check(); err != nil {
		if w.Replace && fault.Of(err).Code == fault.SnapshotInvalid {
			return w.replace(ctx)
		}
		return ansible.Result{}, err
	}
	if merging := w.merging(); merging != "" {
		return ansible.Result{}, fault.New(fault.Merging, "set %s is being rolled back: %s is merging", w.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", w.Set)
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
	if len(missing)+len(extra) == 0 || !w.set.Complete() { // an incomplete set is Check's to report
		return nil
	}
	f := fault.New(fault.SetDiffers, "set %s exists, taken %s, but not of these volumes", w.Set, w.set.Time.Format("2006-01-02 15:04:05"))
	if len(missing) > 0 {
		f.Msg += "; it has no snapshot of " + strings.Join(unique(missing), ", ")
	}
	if len(extra) > 0 {
		f.Msg += "; it also has one of " + strings.Join(unique(extra), ", ")
	}
	if w.State == Absent || w.State == Unmounted {
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
		return describe(w.set, false, fmt.Sprintf("set %s is there, taken %s", w.Set, w.set.Time.Format("2006-01-02 15:04:05"))), nil
	}
	before := list(w.set)
	for _, v := range w.set.Snapshots {
		size, ok := more[v.FullName()]
		if !ok {
			continue
		}
		if !w.Check {
			if err := w.lvm.Extend(ctx, v.FullName(), size); err != nil {
				return ansible.Result{}, fault.New(fault.Of(err).Code, "extend %s to %s: %w", v.FullName(), ansible.Bytes(size), err)
			}
		}
		v.COWSize = size
	}
	result := describe(w.set, true, fmt.Sprintf("extended set %s", w.Set))
	result.Diff = setDiff(w.Set, before, list(w.set))
	return result, nil
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

// absent removes the set.
func (w *work) absent(ctx context.Context) (ansible.Result, error) {
	if w.set == nil {
		return ansible.Result{Msg: None(w.view.Report, w.Set), Data: map[string]any{"name": w.Set}}, nil
	}
	if merging := w.merging(); merging != "" {
		return ansible.Result{}, fault.New(fault.Merging, "set %s is being rolled back: %s is merging and goes away by itself", w.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", w.Set)
	}
	if err := w.same(); err != nil {
		return ansible.Result{}, err
	}
	result := describe(w.set, true, fmt.Sprintf("%s set %s: %s", w.verb("removed", "remove"), w.Set, strings.Join(names(w.set.Snapshots), ", ")))
	result.Diff = setDiff(w.Set, list(w.set), nil)
	if points := w.mountedOn(); len(points) > 0 {
		result.Msg += "; " + w.verb("unmounted", "unmount") + " it from " + strings.Join(points, ", ")
		result.Data["unmounted"] = points
	}
	if w.Check {
		return result, w.notInUse(ctx)
	}
	return result, w.remove(ctx)
}

// remove unmounts and removes the set. What an interruption leaves of it is removed by the journal's settling.
func (w *work) remove(ctx context.Context) error {
	if err := w.notInUse(ctx); err != nil {
		return err
	}
	plan := &Plan{Set: w.Set, ID: w.set.ID, Mounted: w.mountsOf()}
	if err := w.trip.Begin(Kind, w.Set, w.set.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := unmountTargets(plan.Mounted); err != nil {
		return fault.All(err, w.trip.Finish("kept", journal.Undone, nil))
	}
	if err := w.lvm.Remove(ctx, names(w.set.Snapshots)...); err != nil {
		return fault.New(fault.Of(err).Code, "remove set %s: %w", w.Set, err)
	}
	return w.trip.Finish("removed", journal.Done, nil)
}

// verb is what was done, or with Check what would be.
func (w *work) verb(done, would string) string {
	if w.Check {
		return "would " + would
	}
	return done
}

// notInUse names whoever holds a snapshot of the set open, before anything is changed.
func (w *work) notInUse(ctx context.Context) error {
	var devs []filesystem.Dev
	for _, v := range w.set.Snapshots {
		if v.Active && v.Open {
			devs = append(devs, devOf(v))
		}
	}
	if len(devs) == 0 {
		return nil
	}
	var own []filesystem.Mount
	for _, dev := range devs {
		own = append(own, filesystem.On(w.view.Mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil || len(holders) == 0 {
		return err
	}
	return fault.New(fault.Busy, "set %s is held open by %s", w.Set, filesystem.Named(holders)).With("holders", holders).
		WithHint("end what uses the snapshots, then run this again")
}
