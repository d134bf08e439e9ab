package snapset

import (
	"context"
	"fmt"
	"strings"
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
	op    *setOperation
	plan  *Plan
}

// Part is one volume of an Own, with its snapshot.
type Part struct {
	Target   Target
	Snapshot *lvm.Volume
	options  []string // mount options that name the snapshots of what its file system needs
}

// Planned is a set that Take would take, for a check, and for looking at its targets first.
type Planned struct {
	Targets  []Target // as in Own.Parts
	Existing bool     // the set exists and was taken for a restore: Take uses it again
	Result   Result   // of a check
	op       *setOperation
	plan     *Plan
}

// PlanOwnedSet is Server.PlanOwnedSet for the server that the program runs on, with programs that r starts.
func PlanOwnedSet(ctx context.Context, run *journey.Run, r command.Runner, req Request) (*Planned, error) {
	s := ThisServer()
	s.Runner = r
	return s.PlanOwnedSet(ctx, run, req)
}

// PlanOwnedSet reads the state of the server, locks the volume groups unless run is nil, and plans the set. A set of
// that name that was taken for a restore is planned to be used again for a restore. Faults: exists if there is any
// other set of that name; unsupported for a LUKS volume; those of View.Resolve and View.New; those of a set that cannot
// be used again.
func (s Server) PlanOwnedSet(ctx context.Context, run *journey.Run, req Request) (*Planned, error) {
	op, err := s.readAndLock(ctx, run, req)
	if err != nil {
		return nil, err
	}
	if err := op.checkMountable(); err != nil {
		return nil, err
	}
	n := op.movePartsLast()
	if op.set != nil && op.set.Use == ForRestore && req.Use == ForRestore {
		return op.reuseExisting(n)
	}
	if op.set != nil {
		return nil, fault.New(fault.Exists, "there is a set %s already: %s",
			op.Set, strings.Join(fullNames(op.set.Snapshots), ", ")).
			WithHint("choose another name, or remove it: lvm_snapshot name=%s state=absent", op.Set)
	}
	if err := op.checkLocking(ctx); err != nil {
		return nil, err
	}
	p := &Planned{Targets: op.targets[:n], op: op}
	return p, p.Resize()
}

// Resolve returns the targets for the volumes that the user named. It takes no lock and changes nothing. Faults: those
// of View.Resolve.
func Resolve(ctx context.Context, r command.Runner, volumes []Volume) ([]Target, error) {
	report, err := lvm.New(r).Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	view := NewView(report, mounts)
	return view.Resolve(volumes)
}

// checkMountable refuses targets whose snapshots cannot be mounted.
func (op *setOperation) checkMountable() error {
	var errs []error
	for i := range op.targets {
		t := &op.targets[i]
		if t.Crypt != "" {
			errs = append(errs, fault.New(fault.Unsupported,
				"%s is encrypted (LUKS); its snapshot is not opened for mounting", t.LV.FullName()).
				WithHint("leave it out; a directory on it can be backed up as it is: {path: /dir, snapshot: false}"))
		}
	}
	return fault.All(errs...)
}

// movePartsLast moves the targets that are parts of others (see IsPart) to the end, and returns how many other targets
// there are. In a restore, each part gets COW space for all of its volume: nothing watches its snapshot while the set
// is filled.
func (op *setOperation) movePartsLast() int {
	var fileSystems, parts []Target
	for _, t := range op.targets {
		if !IsPart(&t, op.targets) {
			fileSystems = append(fileSystems, t)
			continue
		}
		if op.Use == ForRestore {
			t.Size = fmt.Sprintf("%db", lvm.MaxCOW(t.LV.Size, lvm.Chunk, t.Group.ExtentSize))
		}
		parts = append(parts, t)
	}
	op.targets = append(fileSystems, parts...)
	return len(fileSystems)
}

// Reserved returns the COW space of the parts' snapshots, in bytes by volume group.
func (p *Planned) Reserved() map[string]int64 {
	reserved := map[string]int64{}
	for i, t := range p.op.targets {
		if m := p.plan.Members[i]; i >= len(p.Targets) {
			reserved[t.LV.VG] += m.COW
		}
	}
	return reserved
}

// reuseExisting plans to use an existing set again, if it is of the same volumes and can be relied on. n is the number
// of targets that are not parts.
func (op *setOperation) reuseExisting(n int) (*Planned, error) {
	if err := fault.All(op.checkSameVolumes(), op.set.Check()); err != nil {
		f := fault.New(fault.Of(err).Code, "set %s cannot be used again: %w", op.Set, err)
		if f.Code == fault.Merging { // it cannot be removed, and vanishes when the merge is done
			return nil, f
		}
		return nil, f.WithHint("remove it, and restore again: lvm_snapshot name=%s state=absent", op.Set)
	}
	if merging := op.mergingSnapshot(); merging != "" {
		return nil, fault.New(fault.Merging, "set %s is being rolled back: %s is merging", op.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", op.Set)
	}
	for _, v := range op.set.Snapshots {
		if mounts := filesystem.On(op.view.Mounts, devOf(v)); len(mounts) > 0 {
			return nil, fault.New(fault.Busy, "%s of set %s is mounted at %s", v.FullName(), op.Set, mounts[0].Point).
				WithHint("lvm_snapshot name=%s state=unmounted", op.Set)
		}
	}
	plan := op.set.removalPlan(nil)
	result := existingSetResult(op.set, false, "would use set "+op.Set+" again")
	return &Planned{Targets: op.targets[:n], Existing: true, Result: result, op: op, plan: plan}, nil
}

// Resize plans the set again, with the sizes that the Targets have now. Faults: those of View.New; no_space if the disk
// of the journal or of LVM's metadata copies is nearly full.
func (p *Planned) Resize() (err error) {
	op := p.op
	want := SetSpec{Set: op.Set, Volumes: op.Volumes, Size: op.Size, Use: op.Use}
	p.plan, err = op.view.New(want, journal.NewID(), op.targets)
	if err == nil {
		p.Result = newSetResult(p.plan, nil, "would take")
		err = op.checkReserveSpace()
	}
	return err
}

// Take takes the planned set, or begins to use the existing one. After an error nothing of a new set is left, unless a
// set is returned as well: then only its journal entry could not be written.
func (p *Planned) Take(ctx context.Context) (*OwnedSet, Result, error) {
	op := p.op
	if p.Existing {
		return op.ownSet(p.plan), p.Result, op.run.Begin(Kind, op.Set, op.set.Groups(), "in use", p.plan)
	}
	result, err := op.takePlanned(ctx, p.plan, func() error { return op.run.Record("in use", p.plan) })
	if !result.Took {
		return nil, Result{}, err
	}
	return op.ownSet(p.plan), result, err
}

// ownSet returns the set of the plan as an Own.
func (op *setOperation) ownSet(p *Plan) *OwnedSet {
	own := &OwnedSet{op: op, plan: p}
	for i := range op.targets {
		t := &op.targets[i]
		if !IsPart(t, op.targets) {
			own.Parts = append(own.Parts, Part{Target: *t, Snapshot: op.snapshotOf(t.LV), options: op.snapshotOptions(t)})
		}
	}
	return own
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
	report, err := o.op.lvm.Report(ctx)
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
	o.op.set = set
	for i := range o.Parts {
		if v := o.op.snapshotOf(o.Parts[i].Target.LV); v != nil {
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
	if err := Undo(ctx, o.op.lvm, o.plan); err != nil {
		return err
	}
	return o.op.run.Finish("removed", outcome, nil)
}

// Keep makes the set an ordinary one, which the run does not remove, and closes its journal entry with this step.
func (o *OwnedSet) Keep(step string) error { return o.op.run.Finish(step, journal.Done, o.plan) }

// closeLimit bounds the wait for a device to be closed. When the last process in a private mount namespace has ended,
// the kernel unmounts what was mounted there only some time later.
var closeLimit = 30 * time.Second

// awaitClosed waits until none of the devices is open. After closeLimit it returns without an error: LVM's next command
// then says that a device is open.
func awaitClosed(ctx context.Context, l *lvm.LVM, devices []string) error {
	until := time.Now().Add(closeLimit)
	for {
		info, err := l.Info(ctx)
		if err != nil {
			return err
		}
		open := false
		for _, name := range devices {
			open = open || info[name].Open > 0
		}
		if !open || time.Now().After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond): // device-mapper has no event for a close
		}
	}
}
