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

// absent removes the set.
func (w *work) absent(ctx context.Context) (ansible.Result, error) {
	if w.set == nil {
		return ansible.Result{Msg: None(w.view.Report, w.Set), Data: map[string]any{"name": w.Set}}, nil
	}
	if merging := w.merging(); merging != "" {
		return ansible.Result{}, fault.New(fault.Merging, "set %s is being rolled back: %s is merging and goes away by itself", w.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", w.Set)
	}
	if err := fault.All(w.same(), w.removable()); err != nil {
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

// removable refuses to remove what has the set's tags and is more by now than a snapshot of it.
func (w *work) removable() error {
	wrong := []error{w.set.copied()}
	for _, v := range w.set.Snapshots {
		wrong = append(wrong, w.set.still(v), takenOf(w.view.Report, v))
	}
	return fault.All(wrong...)
}

// takenOf names the thick snapshots that somebody took of a member, a thin one: LVM removes them with it.
func takenOf(r *lvm.Report, member *lvm.Volume) error {
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
		strings.Join(names(thick), ", ")).
		WithHint("remove them first (lvremove %s), then run this again", strings.Join(names(thick), " "))
}

// still says why a member cannot be taken for the snapshot that it was: a thin one may be the only one that has the
// data by now, and be what is mounted in its origin's place.
func (s *Set) still(v *lvm.Volume) error {
	why := ""
	switch {
	case v.Kind == lvm.Thin && v.Origin == "":
		why = "has no origin any more: it was removed, or another snapshot of it was merged"
	case !strings.HasSuffix(v.Name, SnapshotName("", s.Set)):
		why = "was renamed"
	default:
		return nil
	}
	return fault.New(fault.SetDiffers, "%s %s, and may be a volume of its own by now: it does not go with set %s",
		v.FullName(), why, s.Set).
		WithHint("lvchange --deltag %s %s takes it out of the set and keeps it; lvremove %s removes it", tagID+s.ID,
			v.FullName(), v.FullName())
}

// remove unmounts and removes the set. What an interruption leaves of it is removed by the journal's settling.
func (w *work) remove(ctx context.Context) error {
	if err := w.notInUse(ctx); err != nil {
		return err
	}
	plan := w.set.removal(w.mountsOf())
	if err := w.trip.Begin(Kind, w.Set, w.set.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := unmountTargets(ctx, plan.Mounted); err != nil {
		return fault.All(err, w.trip.Finish("kept", journal.Undone, nil))
	}
	if err := w.lvm.Remove(ctx, names(w.set.Snapshots)...); err != nil {
		err = fault.New(fault.Of(err).Code, "remove set %s: %w", w.Set, err)
		return fault.All(err, plan.putBack(ctx, w.lvm)) // the rest is settled when this run has ended
	}
	return w.trip.Finish("removed", journal.Done, nil)
}

// removal is the plan of what is left to do when the removal of the set is interrupted.
func (s *Set) removal(mounted []filesystem.Target) *Plan {
	return &Plan{Set: s.Set, ID: s.ID, Time: s.Time, Use: s.Use, Members: s.origins(), Mounted: mounted}
}

// origins are the volumes that a killed LVM command may leave suspended when it changes the set.
func (s *Set) origins() []*Member {
	var members []*Member
	for _, v := range s.Snapshots {
		if v.Origin != "" {
			members = append(members, &Member{VG: v.VG, LV: v.Origin, DMName: lvm.DMName(v.VG, v.Origin)})
		}
	}
	return members
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
