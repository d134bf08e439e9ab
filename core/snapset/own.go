package snapset

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// OwnedSet is a set that a run takes for its own use and removes again, such as the one that a backup reads. Until
// Keep, the journal says that the set is to be removed, whatever happens to the run. The set is identified by its ID,
// so no other set is ever removed in its place.
type OwnedSet struct {
	Parts []Part // without logs, real-time devices and journals, which have no file system of their own
	run   *journey.Run
	lvm   *lvm.LVM
	plan  *Plan
	set   *Set // as Look saw it last
}

// Part is one volume of an OwnedSet, with its snapshot.
type Part struct {
	Target   Target
	Snapshot *lvm.Volume
	options  []string // mount options that name the snapshots of what its file system needs
}

// Time returns the set's instant.
func (o *OwnedSet) Time() time.Time { return o.plan.Time }

// MountSpec says how to mount a part's snapshot on point: for reading only, or with write for writing too. It is
// mounted so that no program on it can be run and no device node used. Fault: unsupported if it has no known file
// system.
func (p *Part) MountSpec(
	ctx context.Context, r command.Runner, point string, write bool,
) (filesystem.MountSpec, error) {
	spec := filesystem.MountSpec{Source: p.Snapshot.Path, Point: point}
	var origin filesystem.Mount
	if len(p.Target.Mounts) > 0 {
		origin = p.Target.Mounts[0]
		spec.Type = origin.Type
	} else {
		fstype, err := filesystem.TypeOf(ctx, r, p.Snapshot.Path)
		if err != nil {
			return spec, err
		}
		spec.Type = fstype
	}
	options := ""
	if write {
		options = "rw"
	}
	inert := filesystem.WithoutExecution(filesystem.SnapshotOptions(spec.Type, origin, false))
	spec.Options = mergeOptions(append(inert, p.options...), options)
	return spec, nil
}

// Look reads the set again, and updates the Parts with their use of COW space. Faults: snapshot_invalid if one has
// overflowed; not_found if the set was removed; the others of Set.Check.
func (o *OwnedSet) Look(ctx context.Context) error {
	report, err := o.lvm.Report(ctx)
	if err != nil {
		return err
	}
	set, err := Find(report, o.plan.Set)
	if err != nil {
		return err
	}
	if set == nil || set.ID != o.plan.ID {
		return fault.New(fault.NotFound, "set %s was removed while it was in use", o.plan.Set)
	}
	o.set = set
	for i := range o.Parts {
		if v := set.snapshotOf(o.Parts[i].Target.LV); v != nil {
			o.Parts[i].Snapshot = v
		}
		if g, ok := report.Group(o.Parts[i].Target.LV.VG); ok {
			o.Parts[i].Target.Group = g
		}
	}
	return set.Check()
}

// Remove removes the set, and closes its journal entry with this outcome: journal.Done if the set has served its
// purpose.
func (o *OwnedSet) Remove(ctx context.Context, outcome journal.Outcome) error {
	if err := Undo(ctx, o.lvm, o.plan); err != nil {
		return err
	}
	return o.run.Finish("removed", outcome, nil)
}

// Keep makes the set an ordinary one, which the run does not remove, and closes its journal entry with this step.
func (o *OwnedSet) Keep(step string) error { return o.run.Finish(step, journal.Done, o.plan) }
