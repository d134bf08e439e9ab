package rollback

import (
	"context"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// planner looks at the server and plans the rollback. It changes nothing.
type planner struct{ *base }

// findings is what check found, besides what it wrote to the state.
type findings struct {
	selection *selection
	targets   []snapset.Target
	toEnd     []processToEnd      // filled only with StopHolders
	holders   []filesystem.Holder // what keeps volumes open and may not be ended; filled only with Defer
}

// check looks for everything that could be in the way, and returns faults for all of it. It changes nothing on the
// server.
func (p *planner) check(ctx context.Context, sel *selection) (*findings, error) {
	f := &findings{selection: sel}
	if sel.set != nil {
		if err := sel.set.Check(); err != nil {
			return nil, err
		}
	}
	p.state = &State{Set: p.name(), Start: p.StartServices, Resnapshot: p.Resnapshot}
	if sel.set != nil {
		p.state.ID, p.state.Taken, p.state.Restored = sel.set.ID, sel.set.Time, sel.set.Restored
		p.warnings = append(p.warnings, severalInstantsWarning(sel.set)...)
	}
	if err := p.planMembers(ctx, f); err != nil {
		return nil, err
	}
	if sel.set != nil && sel.set.Each { // sets of earlier versions were not checked when they were taken
		if err := sel.view.CheckSeparable(f.targets); err != nil {
			return nil, err
		}
	}
	if err := p.planMounts(f); err != nil {
		return nil, err
	}
	p.warnOfKernels(f)
	if err := p.proveKeys(ctx, f); err != nil {
		return nil, err
	}
	return f, p.planServices(ctx, f)
}

// planMembers plans the merge of each snapshot, and finds the volumes' file systems.
func (p *planner) planMembers(ctx context.Context, f *findings) error {
	sel := f.selection
	var errs []error
	var origins []snapset.Volume
	for _, v := range sel.snapshots {
		m, err := newMember(sel.view.Report, v)
		if err == nil && m.Thin {
			err = p.checkPool(ctx, sel.view.Report, m)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.state.Taken.IsZero() || v.Created.Before(p.state.Taken) {
			p.state.Taken = v.Created
		}
		m.Siblings = siblingsOf(sel.view.Report, m, v)
		errs = append(errs, m.checkSiblings())
		p.warnings = append(p.warnings, orphanWarnings(sel.view.Report, m, v)...)
		p.state.Members = append(p.state.Members, m)
		origins = append(origins, snapset.Volume{Name: m.origin()})
	}
	if err := fault.All(errs...); err != nil {
		return err
	}
	var err error
	if f.targets, err = sel.view.Resolve(origins); err != nil {
		return err
	}
	if err := p.planClusters(f); err != nil {
		return err
	}
	for i, m := range p.state.Members {
		m.LogOf = logOf(&f.targets[i], f.targets)
		if m.Protect, err = isWritable(p.server.Host, f.targets[i].LV); err != nil {
			return err
		}
		if !f.targets[i].LV.Active {
			p.warnings = append(p.warnings, m.origin()+" is inactive: the rollback activates it, and it stays active")
		}
	}
	return nil
}

// severalInstantsWarning warns of a set whose volumes were not taken at one instant.
func severalInstantsWarning(set *snapset.Set) []string {
	if !set.Each {
		return nil
	}
	return []string{"set " + set.Set + " was taken with consistency=volume: its volumes go back to " +
		"instants that follow each other, not to one"}
}

// newMember returns the member for snapshot v. It refuses a snapshot that cannot be merged.
func newMember(r *lvm.Report, v *lvm.Volume) (*Member, error) {
	if err := snapset.Unreliable(v); err != nil {
		return nil, err
	}
	if v.Merging {
		return nil, fault.New(fault.Merging, "%s is already merging, and Rewind did not start that merge", v.FullName()).
			WithHint("lvs -a shows how far it is; if its volume is in use the merge waits for its next activation")
	}
	origin, ok := r.Volume(v.VG, v.Origin)
	if ok {
		err := fault.All(snapset.Unreliable(origin), snapset.CheckNotLocked(origin), snapset.CheckNotLocked(v))
		if err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, fault.New(fault.Unsupported, "%s has lost its origin: LVM cannot merge it", v.FullName()).
			WithHint("merging one thin snapshot takes the origin of its siblings away; copy the data from it instead")
	}
	if err := snapset.CheckMergeInto(origin, v.IsThinSnapshot()); err != nil {
		return nil, err
	}
	if origin.Merging {
		return nil, fault.New(fault.Merging, "%s is merging another snapshot", origin.FullName()).
			WithHint("wait for it: lvm_snapshot_info shows its progress")
	}
	group, _ := r.Group(v.VG)
	return &Member{
		VG: v.VG, VGID: group.UUID,
		LV: origin.Name, Snapshot: v.Name, DMName: origin.DMName, SnapshotDM: v.DMName, SnapshotID: v.UUID,
		Thin: v.IsThinSnapshot(), ThinID: v.ThinID, Pool: v.Pool, COWSize: v.COWSize, Used: v.COWUsed,
	}, nil
}

// checkPool refuses a merge in a thin pool whose metadata cannot be trusted, because such a merge may lose the origin.
// A pool that is only out of data space is not refused: the merge frees space in it.
func (p *planner) checkPool(ctx context.Context, r *lvm.Report, m *Member) error {
	pool, err := r.Need(m.VG, m.Pool)
	if err != nil {
		return err
	}
	status, err := p.lvm.Status(ctx)
	if err != nil {
		return err
	}
	judged := *pool
	if judged.Health == lvm.OutOfData {
		judged.Health = lvm.Healthy
	}
	bad, why := judged.Bad()
	if !bad && lvm.PoolDamaged(pool, status) {
		bad, why = true, "its transaction id in the kernel is not the one LVM expects"
	}
	if !bad {
		return nil
	}
	return fault.New(fault.PoolDamaged, "thin pool %s of %s: %s", pool.FullName(), m.origin(), why).
		WithHint("see lvmthin(7), \"Metadata check and repair\"")
}

// isWritable is true if a volume can be written to, or can be once it is activated.
func isWritable(host filesystem.Host, v *lvm.Volume) (bool, error) {
	if !v.Active {
		return !v.ReadOnly, nil
	}
	readOnly, err := host.WriteProtected(filesystem.NewDev(v.Major, v.Minor))
	return !readOnly, err
}

// findJournalMember returns the member whose file system holds the journal, in most cases the root volume; nil if none
// does.
func (p *planner) findJournalMember(f *findings) (*Member, error) {
	view := f.selection.view
	journalMount, err := filesystem.Holding(view.Mounts, view.Journal)
	if err != nil {
		return nil, err
	}
	for i := range f.targets {
		if f.targets[i].FS == journalMount.Dev {
			return p.state.Members[i], nil
		}
	}
	return nil, nil
}
