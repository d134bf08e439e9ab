package snapset

import (
	"context"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// makeAbsent removes the set, if there is one.
func (op *operation) makeAbsent(ctx context.Context) (Result, error) {
	if op.set == nil {
		return Result{Msg: None(op.view.Report, op.Set), Label: Label{Set: op.Set}}, nil
	}
	if merging := op.set.merging(); merging != "" {
		return Result{}, fault.New(fault.Merging,
			"set %s is being rolled back: %s is merging and goes away by itself", op.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", op.Set)
	}
	err := fault.All(op.set.checkSameVolumes(op.targets, op.State), op.set.checkRemovable(op.view.Report))
	if err != nil {
		return Result{}, err
	}
	result := existingSetResult(op.set, true, fmt.Sprintf("%s set %s: %s",
		op.doneOrWould("removed", "remove"), op.Set, strings.Join(fullNames(op.set.Snapshots), ", ")))
	result.Diff = &Diff{Before: listSnapshots(op.set)}
	if points := pointsOf(op.set.mountsAmong(op.view.Mounts)); len(points) > 0 {
		result.Msg += "; " + op.doneOrWould("unmounted", "unmount") + " it from " + strings.Join(points, ", ")
		result.Unmounted = points
	}
	if op.Check {
		return result, op.set.checkNotInUse(ctx, op.view.Mounts)
	}
	return result, removeSet(ctx, op.run, op.lvm, op.set, op.view.Mounts)
}

// checkRemovable refuses to remove a volume that has the set's tags, but may be more by now than a snapshot of the set.
// It also refuses to remove a part of a set whose other part LVM does not see: it would be left for good.
func (s *Set) checkRemovable(r *lvm.Report) error {
	errs := []error{s.checkVisible(), s.checkNotCopied()}
	for _, v := range s.Snapshots {
		errs = append(errs, s.checkUnchanged(v), checkNoThickSnapshots(r, v))
	}
	return fault.All(errs...)
}

// checkNoThickSnapshots fails with busy if somebody took thick snapshots of a member that is a thin snapshot: LVM would
// remove them together with the member.
func checkNoThickSnapshots(r *lvm.Report, member *lvm.Volume) error {
	var thick []*lvm.Volume
	for _, v := range r.Snapshots(member) {
		if v.Kind == lvm.Snapshot {
			thick = append(thick, v)
		}
	}
	if len(thick) == 0 {
		return nil
	}
	return fault.New(fault.Busy, "%s has snapshots of its own, which would be removed with it: %s", member.FullName(),
		strings.Join(fullNames(thick), ", ")).
		WithHint("remove them first (lvremove %s), then run this again", strings.Join(fullNames(thick), " "))
}

// checkUnchanged fails with set_differs if a member is no longer what was taken. A thin snapshot may hold the only copy
// of the data by now, and be mounted in place of its origin.
func (s *Set) checkUnchanged(v *lvm.Volume) error {
	why := ""
	switch {
	case hasLostOrigin(v):
		why = "has " + lostOrigin
	case !strings.HasSuffix(v.Name, SnapshotName("", s.Set)):
		why = "was renamed"
	default:
		return nil
	}
	return fault.New(fault.SetDiffers, "%s %s, and may be a volume of its own by now: it is not removed with set %s",
		v.FullName(), why, s.Set).
		WithHint("lvchange --deltag %s %s takes it out of the set and keeps it; lvremove %s removes it", tagID+s.ID,
			v.FullName(), v.FullName())
}

// removeSet unmounts and removes the set. If it is interrupted, settling the journal entry removes the rest. mounts are
// those of the server.
func removeSet(ctx context.Context, run *journey.Run, l *lvm.LVM, s *Set, mounts []filesystem.Mount) error {
	if err := s.checkNotInUse(ctx, mounts); err != nil {
		return err
	}
	plan := s.removalPlan(s.mountsAmong(mounts))
	if err := run.Begin(Kind, s.Set, s.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := unmountTargets(ctx, plan.Mounted); err != nil {
		return fault.All(err, run.Finish("kept", journal.Undone, nil))
	}
	if err := l.Remove(ctx, s.Snapshots...); err != nil {
		err = fault.New(fault.Of(err).Code, "remove set %s: %w", s.Set, err)
		return fault.All(err, plan.repairOrigins(ctx, l)) // the open entry is settled when this run has ended
	}
	return run.Finish("removed", journal.Done, nil)
}

// removeTaken removes a set that the same operation took, and that nobody uses yet.
func removeTaken(ctx context.Context, run *journey.Run, l *lvm.LVM, s *Set) error {
	plan := s.removalPlan(nil)
	if err := run.Begin(Kind, s.Set, plan.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := undoAfterFailure(ctx, l, plan); err != nil {
		return err
	}
	return run.Finish("removed", journal.Done, nil)
}

// removalPlan returns the plan that Undo needs if the removal of the set is interrupted. mounted are the set's mounts.
func (s *Set) removalPlan(mounted []filesystem.Target) *Plan {
	return &Plan{Set: s.Set, ID: s.ID, Time: s.Time, Use: s.Use, Members: s.origins(), Mounted: mounted}
}

// origins returns the origins as members, for Undo. A killed LVM command that changes the set may leave them suspended.
func (s *Set) origins() []*Member {
	var members []*Member
	for _, v := range s.Snapshots {
		if v.Origin != "" {
			members = append(members, &Member{VG: v.VG, LV: v.Origin, UUID: v.OriginUUID, DMName: lvm.DMName(v.VG, v.Origin)})
		}
	}
	return members
}
