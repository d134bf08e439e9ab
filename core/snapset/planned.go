package snapset

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Planned is a set that a run would take for its own use, for a check, and for looking at its targets first.
type Planned struct {
	Targets  []Target // as in OwnedSet.Parts
	Existing bool     // the set exists and was taken for a restore: Take uses it again
	Result   Result   // of a check
	op       *operation
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
	if err := checkMountable(op.targets); err != nil {
		return nil, err
	}
	var n int
	op.targets, n = movePartsLast(op.targets, op.Use)
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

// checkMountable refuses targets whose snapshots cannot be mounted.
func checkMountable(targets []Target) error {
	var errs []error
	for _, t := range targets {
		if t.Crypt != "" {
			errs = append(errs, fault.New(fault.Unsupported,
				"%s is encrypted (LUKS); its snapshot is not opened for mounting", t.LV.FullName()).
				WithHint("leave it out; a directory on it can be backed up as it is: {path: /dir, snapshot: false}"))
		}
	}
	return fault.All(errs...)
}

// movePartsLast returns the targets with those at the end that are parts of others (see IsPart), and how many other
// targets there are. For a restore, each part gets COW space for all of its volume: nothing watches its snapshot while
// the set is filled.
func movePartsLast(targets []Target, use Use) (moved []Target, others int) {
	var fileSystems, parts []Target
	for _, t := range targets {
		if !IsPart(&t, targets) {
			fileSystems = append(fileSystems, t)
			continue
		}
		if use == ForRestore {
			t.Size = fmt.Sprintf("%db", lvm.MaxCOW(t.LV.Size, lvm.Chunk, t.Group.ExtentSize))
		}
		parts = append(parts, t)
	}
	return append(fileSystems, parts...), len(fileSystems)
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

// ClusterWarnings warns of running PostgreSQL clusters of which the set has only a part: what is copied of them cannot
// be used.
func (p *Planned) ClusterWarnings() []string {
	err := p.op.view.CheckClusters(p.op.targets, false)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fault.OutsideVolume):
		return []string{"of a database only a part is stored, which cannot be used: " + err.Error()}
	}
	return []string{err.Error()}
}

// reuseExisting plans to use an existing set again, if it is of the same volumes and can be relied on. n is the number
// of targets that are not parts.
func (op *operation) reuseExisting(n int) (*Planned, error) {
	if err := fault.All(op.set.checkSameVolumes(op.targets, op.State), op.set.Check()); err != nil {
		f := fault.New(fault.Of(err).Code, "set %s cannot be used again: %w", op.Set, err)
		if f.Code == fault.Merging { // it cannot be removed, and vanishes when the merge is done
			return nil, f
		}
		return nil, f.WithHint("remove it, and restore again: lvm_snapshot name=%s state=absent", op.Set)
	}
	if err := op.set.checkNotMerging(); err != nil {
		return nil, err
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
		err = checkReserveSpace(op.lvm.Dir(), op.server.StateDir)
	}
	return err
}

// Take takes the planned set, or begins to use the existing one. After an error nothing of a new set is left, unless a
// set is returned as well: then only its journal entry could not be written.
func (p *Planned) Take(ctx context.Context) (*OwnedSet, Result, error) {
	op := p.op
	if p.Existing {
		return op.owned(p.plan), p.Result, op.run.Begin(Kind, op.Set, op.set.Groups(), "in use", p.plan)
	}
	result, err := op.takePlanned(ctx, p.plan, func() error { return op.run.Record("in use", p.plan) })
	if !result.Took {
		return nil, Result{}, err
	}
	return op.owned(p.plan), result, err
}

// owned returns the set of the operation, which was taken or is used again by this plan, as one that the run uses.
func (op *operation) owned(p *Plan) *OwnedSet {
	owned := &OwnedSet{run: op.run, lvm: op.lvm, plan: p, set: op.set}
	for i := range op.targets {
		t := &op.targets[i]
		if !IsPart(t, op.targets) {
			owned.Parts = append(owned.Parts, Part{
				Target: *t, Snapshot: op.set.snapshotOf(t.LV), options: op.set.partOptions(t),
			})
		}
	}
	return owned
}
