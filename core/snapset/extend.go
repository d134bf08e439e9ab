package snapset

import (
	"context"
	"fmt"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// extend gives more COW space to the snapshots that are smaller than requested. It never shrinks one.
func (op *operation) extend(ctx context.Context) (Result, error) {
	if op.Size != "" {
		if err := op.targetSetOrigins(); err != nil {
			return Result{}, err
		}
	}
	sizes, err := op.set.largerSizes(op.Size, op.targets, op.view.Report)
	if err != nil {
		return Result{}, err
	}
	if len(sizes) == 0 {
		msg := fmt.Sprintf("set %s is there, taken %s", op.Set, op.set.Time.Local().Format(time.RFC3339))
		return existingSetResult(op.set, false, msg), nil
	}
	before := listSnapshots(op.set)
	if !op.Check {
		if err := extendSnapshots(ctx, op.run, op.lvm, op.set, sizes); err != nil {
			return Result{}, err
		}
	}
	for _, v := range op.set.Snapshots {
		if size, ok := sizes[v.FullName()]; ok {
			v.COWSize = size
		}
	}
	result := existingSetResult(op.set, true, op.doneOrWould("extended", "extend")+" set "+op.Set)
	result.Diff = &Diff{Before: before, After: listSnapshots(op.set)}
	return result, nil
}

// largerSizes returns the new sizes, in bytes by vg/lv, of the snapshots of the targets that are smaller than size, or
// than the target's own size. It fails with no_space if they do not all fit.
func (s *Set) largerSizes(size string, targets []Target, r *lvm.Report) (map[string]int64, error) {
	sizes, need := map[string]int64{}, map[string]int64{}
	for i := range targets {
		t := &targets[i]
		requested, _, err := requestedSize(SetSpec{Size: size}, t)
		if err != nil {
			return nil, err
		}
		v := s.snapshotOf(t.LV)
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
		g, _ := r.Group(group)
		if bytes > g.Free {
			errs = append(errs, noSpaceInGroup(g, bytes).WithHint("ask for less, or extend the group (vgextend %s)", g.Name))
		}
	}
	return sizes, fault.All(errs...)
}

// extendSnapshots extends snapshots of the set to these sizes, in bytes by vg/lv. The journal entry names their
// origins, because a killed lvextend leaves these suspended. It has no ID of a set, so that settling it removes no set.
func extendSnapshots(ctx context.Context, run *journey.Run, l *lvm.LVM, s *Set, sizes map[string]int64) error {
	plan := &Plan{Set: s.Set, Members: s.origins()}
	if err := run.Begin(Kind, s.Set, s.Groups(), "extending", plan); err != nil {
		return err
	}
	for _, v := range s.Snapshots {
		size, ok := sizes[v.FullName()]
		if !ok {
			continue
		}
		if err := l.Extend(ctx, v.FullName(), size); err != nil {
			err = fault.New(fault.Of(err).Code, "extend %s to %s: %w", v.FullName(), ansible.Bytes(size), err)
			return closeFailed(run, fault.All(err, undoAfterFailure(ctx, l, plan)))
		}
	}
	return run.Finish("extended", journal.Done, nil)
}
