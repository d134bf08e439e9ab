package snapset

import (
	"context"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
)

// makeAbsent removes the set, if there is one.
func (op *setOperation) makeAbsent(ctx context.Context) (Result, error) {
	if op.set == nil {
		return Result{Msg: None(op.view.Report, op.Set), Label: Label{Set: op.Set}}, nil
	}
	if merging := op.mergingSnapshot(); merging != "" {
		return Result{}, fault.New(fault.Merging,
			"set %s is being rolled back: %s is merging and goes away by itself", op.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", op.Set)
	}
	if err := fault.All(op.checkSameVolumes(), op.checkRemovable()); err != nil {
		return Result{}, err
	}
	result := existingSetResult(op.set, true, fmt.Sprintf("%s set %s: %s",
		op.doneOrWould("removed", "remove"), op.Set, strings.Join(fullNames(op.set.Snapshots), ", ")))
	result.Diff = &Diff{Before: listSnapshots(op.set)}
	if points := op.mountPoints(); len(points) > 0 {
		result.Msg += "; " + op.doneOrWould("unmounted", "unmount") + " it from " + strings.Join(points, ", ")
		result.Unmounted = points
	}
	if op.Check {
		return result, op.checkNotInUse(ctx)
	}
	return result, op.remove(ctx)
}

// checkRemovable refuses to remove a volume that has the set's tags, but may be more by now than a snapshot of the set.
func (op *setOperation) checkRemovable() error {
	errs := []error{op.set.checkNotCopied()}
	for _, v := range op.set.Snapshots {
		errs = append(errs, op.set.checkUnchanged(v), checkNoThickSnapshots(op.view.Report, v))
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
	case v.Kind == lvm.Thin && v.Origin == "":
		why = "has no origin any more: it was removed, or another snapshot of it was merged"
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

// remove unmounts and removes the set. If it is interrupted, settling the journal entry removes the rest.
func (op *setOperation) remove(ctx context.Context) error {
	if err := op.checkNotInUse(ctx); err != nil {
		return err
	}
	plan := op.set.removalPlan(op.setMounts())
	if err := op.run.Begin(Kind, op.Set, op.set.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := unmountTargets(ctx, plan.Mounted); err != nil {
		return fault.All(err, op.run.Finish("kept", journal.Undone, nil))
	}
	if err := op.lvm.Remove(ctx, fullNames(op.set.Snapshots)...); err != nil {
		err = fault.New(fault.Of(err).Code, "remove set %s: %w", op.Set, err)
		return fault.All(err, plan.repairOrigins(ctx, op.lvm)) // the open entry is settled when this run has ended
	}
	return op.run.Finish("removed", journal.Done, nil)
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

// doneOrWould returns the verb for what was done, or with Check "would" and the verb for what would be done.
func (op *setOperation) doneOrWould(done, would string) string {
	if op.Check {
		return "would " + would
	}
	return done
}

// checkNotInUse fails with busy, before anything is changed, and names everything that holds a snapshot of the set
// open.
func (op *setOperation) checkNotInUse(ctx context.Context) error {
	var devs []filesystem.Dev
	for _, v := range op.set.Snapshots {
		if v.Active && v.Open {
			devs = append(devs, devOf(v))
		}
	}
	if len(devs) == 0 {
		return nil
	}
	var own []filesystem.Mount
	for _, dev := range devs {
		own = append(own, filesystem.On(op.view.Mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil || len(holders) == 0 {
		return err
	}
	return fault.New(fault.Busy, "set %s is held open by %s", op.Set, filesystem.Describe(holders)).
		With("holders", holders).
		WithHint("end what uses the snapshots, then run this again")
}
