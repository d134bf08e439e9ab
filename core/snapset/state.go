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

// keepExisting checks that an existing set is what is asked for: of the same volumes and reliable. It extends snapshots
// that are smaller than asked for, and replaces an overflowed set if Replace says so.
func (op *setOperation) keepExisting(ctx context.Context) (Result, error) {
	if err := op.checkSameVolumes(); err != nil {
		return Result{}, err
	}
	if err := op.set.Check(); err != nil {
		if !op.Replace || fault.Of(err).Code != fault.SnapshotInvalid {
			return Result{}, err
		}
		if op.set.Use == ForRestore { // whoever uses it by its name expects the backup that it held
			return Result{}, fault.New(fault.SnapshotInvalid,
				"set %s held a backup, and taken again it would hold what the volumes hold now: %w", op.Set, err).
				WithHint("lvm_snapshot name=%[1]s state=absent removes it, and snap_backup action=restore name=%[1]s "+
					"restores again", op.Set)
		}
		return op.replace(ctx)
	}
	if merging := op.mergingSnapshot(); merging != "" {
		return Result{}, fault.New(fault.Merging, "set %s is being rolled back: %s is merging", op.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", op.Set)
	}
	if op.set.Each && !op.Each && len(op.targets) > 0 {
		return Result{}, fault.New(fault.SetDiffers, "set %s exists, and is of no common instant: each volume was "+
			"taken by itself", op.Set).
			WithHint("choose another name, remove it first (lvm_snapshot name=%s state=absent), or accept it as it is: "+
				"consistency=volume", op.Set)
	}
	return op.extend(ctx)
}

// checkSameVolumes fails with set_differs if the set is not one of the requested volumes.
func (op *setOperation) checkSameVolumes() error {
	if len(op.targets) == 0 {
		return nil
	}
	have := map[string]bool{}
	for _, v := range op.set.Snapshots {
		have[v.VG+"/"+v.Origin] = true
	}
	var missing []string
	for _, t := range op.targets {
		if !have[t.LV.FullName()] {
			missing = append(missing, t.LV.FullName())
		}
		delete(have, t.LV.FullName())
	}
	var extra []string
	for name := range have {
		extra = append(extra, name)
	}
	removesOrUnmounts := op.State == Absent || op.State == Unmounted
	if !op.set.Complete() { // Check reports that; a volume without a snapshot may have been a member
		missing = nil
		if !removesOrUnmounts {
			return nil
		}
	}
	if len(missing)+len(extra) == 0 {
		return nil
	}
	f := fault.New(fault.SetDiffers, "set %s exists, taken %s, but not of these volumes",
		op.Set, op.set.Time.Local().Format(time.RFC3339))
	if len(missing) > 0 {
		f.Msg += "; it has no snapshot of " + strings.Join(sortedUnique(missing), ", ")
	}
	if len(extra) > 0 {
		f.Msg += "; it also has one of " + strings.Join(sortedUnique(extra), ", ")
	}
	if removesOrUnmounts {
		return f.WithHint("leave volumes out to have the whole set %s, or name another set", op.State)
	}
	return f.WithHint("choose another name, or remove it first: lvm_snapshot name=%s state=absent", op.Set)
}

// mergingSnapshot returns the name, vg/lv, of a snapshot of the set that is being merged; empty if there is none.
func (op *setOperation) mergingSnapshot() string {
	for _, v := range op.set.Snapshots {
		if v.Merging {
			return v.FullName()
		}
	}
	return ""
}

// replace removes an overflowed set and takes it again: of the named volumes, or of the same ones if none are named.
func (op *setOperation) replace(ctx context.Context) (Result, error) {
	if err := op.checkRemovable(); err != nil {
		return Result{}, err
	}
	if len(op.targets) == 0 {
		if err := op.targetSetOrigins(); err != nil {
			return Result{}, err
		}
	}
	before := listSnapshots(op.set)
	if !op.Check {
		if err := op.remove(ctx); err != nil {
			return Result{}, err
		}
		if _, err := op.readState(ctx); err != nil {
			return Result{}, err
		}
	} else {
		op.removeFromView()
	}
	result, err := op.takeNew(ctx)
	if err != nil && !op.Check && !result.Took {
		var names []string
		for _, v := range op.Volumes {
			names = append(names, v.Name)
		}
		err = fault.New(fault.Of(err).Code, "set %s had overflowed and was removed, and volumes=%s was not taken again: %w",
			op.Set, strings.Join(names, ","), err)
	}
	if result.Diff != nil {
		result.Diff.Before = before
	}
	return result, err
}

// removeFromView removes the set's snapshots from the view, so that a check can plan what would be done after their
// removal.
func (op *setOperation) removeFromView() {
	for _, s := range op.set.Snapshots {
		group, _ := op.view.Report.Group(s.VG)
		if s.Kind == lvm.Snapshot { // a thin one takes no space of the group
			group.Free += s.Size
		}
		var others []lvm.Volume
		for _, v := range group.Volumes {
			if v.UUID != s.UUID {
				others = append(others, v)
			}
		}
		group.Volumes = others
	}
}

// targetSetOrigins makes the set's origins the targets, if the user named no volumes.
func (op *setOperation) targetSetOrigins() error {
	for _, v := range op.set.Snapshots {
		op.Volumes = append(op.Volumes, Volume{Name: v.VG + "/" + v.Origin})
	}
	var err error
	op.targets, err = op.view.Resolve(op.Volumes)
	return err
}

// extend gives more COW space to the snapshots that are smaller than requested. It never shrinks one.
func (op *setOperation) extend(ctx context.Context) (Result, error) {
	if len(op.targets) == 0 && op.Size != "" {
		if err := op.targetSetOrigins(); err != nil {
			return Result{}, err
		}
	}
	sizes, err := op.largerSizes()
	if err != nil {
		return Result{}, err
	}
	if len(sizes) == 0 {
		msg := fmt.Sprintf("set %s is there, taken %s", op.Set, op.set.Time.Local().Format(time.RFC3339))
		return existingSetResult(op.set, false, msg), nil
	}
	before := listSnapshots(op.set)
	if !op.Check {
		if err := op.extendSnapshots(ctx, sizes); err != nil {
			return Result{}, err
		}
	}
	for _, v := range op.set.Snapshots {
		if size, ok := sizes[v.FullName()]; ok {
			v.COWSize = size
		}
	}
	result := existingSetResult(op.set, true, fmt.Sprintf("extended set %s", op.Set))
	result.Diff = &Diff{Before: before, After: listSnapshots(op.set)}
	return result, nil
}

// extendSnapshots extends snapshots to these sizes, in bytes by vg/lv. The journal entry names their origins, because a
// killed lvextend leaves these suspended. It has no ID of a set, so that settling it removes no set.
func (op *setOperation) extendSnapshots(ctx context.Context, sizes map[string]int64) error {
	plan := &Plan{Set: op.Set, Members: op.set.origins()}
	if err := op.run.Begin(Kind, op.Set, op.set.Groups(), "extending", plan); err != nil {
		return err
	}
	for _, v := range op.set.Snapshots {
		size, ok := sizes[v.FullName()]
		if !ok {
			continue
		}
		if err := op.lvm.Extend(ctx, v.FullName(), size); err != nil {
			err = fault.New(fault.Of(err).Code, "extend %s to %s: %w", v.FullName(), ansible.Bytes(size), err)
			return op.closeFailed(fault.All(err, undoAfterFailure(ctx, op.lvm, plan)))
		}
	}
	return op.run.Finish("extended", journal.Done, nil)
}

// largerSizes returns the new sizes, in bytes by vg/lv, of the snapshots that are smaller than requested. It fails with
// no_space if they do not all fit.
func (op *setOperation) largerSizes() (map[string]int64, error) {
	sizes, need := map[string]int64{}, map[string]int64{}
	for i := range op.targets {
		t := &op.targets[i]
		requested, _, err := requestedSize(SetSpec{Size: op.Size}, t)
		if err != nil {
			return nil, err
		}
		v := op.snapshotOf(t.LV)
		if v == nil || v.Kind == lvm.Thin {
			continue
		}
		requested = min(requested, lvm.MaxCOW(t.LV.Size, v.ChunkSize, t.Group.ExtentSize))
		if requested > v.COWSize {
			sizes[v.FullName()] = requested
			need[v.VG] += requested - v.COWSize
		}
	}
	var errs []error
	for group, bytes := range need {
		g, _ := op.view.Report.Group(group)
		if bytes > g.Free {
			errs = append(errs, noSpaceInGroup(g, bytes).WithHint("ask for less, or extend the group (vgextend %s)", g.Name))
		}
	}
	return sizes, fault.All(errs...)
}

// snapshotOf returns the set's snapshot of a volume; nil if there is none.
func (op *setOperation) snapshotOf(origin *lvm.Volume) *lvm.Volume {
	for _, v := range op.set.Snapshots {
		if v.VG == origin.VG && v.Origin == origin.Name {
			return v
		}
	}
	return nil
}
