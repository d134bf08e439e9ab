package rollback

import (
	"context"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// findings is what check found, besides what it wrote to the state.
type findings struct {
	selection *selection
	targets   []snapset.Target
	toEnd     []processToEnd      // filled only with StopHolders
	holders   []filesystem.Holder // what keeps volumes open and may not be ended; filled only with Defer
}

// check looks for everything that could be in the way, and returns faults for all of it. It changes nothing on the
// server.
func (rb *rollback) check(ctx context.Context, sel *selection) (*findings, error) {
	f := &findings{selection: sel}
	if sel.set != nil {
		if err := sel.set.Check(); err != nil {
			return nil, err
		}
	}
	rb.state = &State{Set: rb.name(), Start: rb.StartServices, Resnapshot: rb.Resnapshot}
	if sel.set != nil {
		rb.state.ID, rb.state.Taken, rb.state.Restored = sel.set.ID, sel.set.Time, sel.set.Restored
		rb.warnOfSeveralInstants(sel.set)
	}
	if err := rb.planMembers(ctx, f); err != nil {
		return nil, err
	}
	if sel.set != nil && sel.set.Each { // sets of earlier versions were not checked when they were taken
		if err := sel.view.CheckSeparable(f.targets); err != nil {
			return nil, err
		}
	}
	if err := rb.planMounts(f); err != nil {
		return nil, err
	}
	rb.warnOfKernels(f)
	if err := rb.proveKeys(ctx, f); err != nil {
		return nil, err
	}
	return f, rb.planServices(ctx, f)
}

// planMembers plans the merge of each snapshot, and finds the volumes' file systems.
func (rb *rollback) planMembers(ctx context.Context, f *findings) error {
	sel := f.selection
	var errs []error
	var origins []snapset.Volume
	for _, v := range sel.snapshots {
		m, err := newMember(sel.view.Report, v)
		if err == nil && m.Thin {
			err = rb.checkPool(ctx, sel.view.Report, m)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if rb.state.Taken.IsZero() || v.Created.Before(rb.state.Taken) {
			rb.state.Taken = v.Created
		}
		m.Siblings = siblingsOf(sel.view.Report, m, v)
		errs = append(errs, m.checkSiblings())
		rb.warnings = append(rb.warnings, orphanWarnings(sel.view.Report, m, v)...)
		rb.state.Members = append(rb.state.Members, m)
		origins = append(origins, snapset.Volume{Name: m.origin()})
	}
	if err := fault.All(errs...); err != nil {
		return err
	}
	var err error
	if f.targets, err = sel.view.Resolve(origins); err != nil {
		return err
	}
	for i, m := range rb.state.Members {
		m.LogOf = logOf(&f.targets[i], f.targets)
		if m.Protect, err = rb.isWritable(f.targets[i].LV); err != nil {
			return err
		}
	}
	return nil
}

// warnOfSeveralInstants warns that the volumes of the set were not taken at one instant.
func (rb *rollback) warnOfSeveralInstants(set *snapset.Set) {
	if set.Each {
		rb.warnings = append(rb.warnings, "set "+set.Set+" was taken with consistency=volume: its volumes go back to "+
			"instants that follow each other, not to one")
	}
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
	if origin.Merging {
		return nil, fault.New(fault.Merging, "%s is merging another snapshot", origin.FullName()).
			WithHint("wait for it: lvm_snapshot_info shows its progress")
	}
	return &Member{
		VG: v.VG, LV: origin.Name, Snapshot: v.Name, DMName: origin.DMName, SnapshotDM: v.DMName, SnapshotID: v.UUID,
		Thin: v.IsThinSnapshot(), ThinID: v.ThinID, Pool: v.Pool, COWSize: v.COWSize, Used: v.COWUsed,
	}, nil
}

// checkPool refuses a merge in a thin pool whose metadata cannot be trusted, because such a merge may lose the origin.
// A pool that is only out of data space is not refused: the merge frees space in it.
func (rb *rollback) checkPool(ctx context.Context, r *lvm.Report, m *Member) error {
	pool, err := r.Need(m.VG, m.Pool)
	if err != nil {
		return err
	}
	status, err := rb.lvm.Status(ctx)
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

// planMounts plans which mounts are unmounted and made again, and refuses members that cannot be unmounted.
func (rb *rollback) planMounts(f *findings) error {
	needed := filesystem.EssentialDevices(f.selection.view.Mounts, f.selection.view.Journal, "/usr")
	fstab, err := rb.server.Host.Fstab()
	if err != nil {
		return err
	}
	devices, crypt := map[string]string{}, map[filesystem.Dev]bool{}
	var errs []error
	var toRestore []filesystem.Mount
	for i := range f.targets {
		t := &f.targets[i]
		path, isNeeded := needed[t.FS]
		if err := rb.checkBootOrder(t, f.selection.view.Journal, path); err != nil {
			errs = append(errs, err)
		} else if isNeeded && !rb.Defer {
			errs = append(errs, fault.New(fault.Busy, "%s holds %s and cannot be closed while the server runs",
				t.LV.FullName(), path).
				WithHint("when_busy=defer merges it at the next boot"))
		}
		for _, m := range rb.ownMounts(t) {
			toRestore = append(toRestore, m)
			devices[m.Point] = t.LV.Path
			crypt[m.Dev] = t.Crypt != ""
		}
	}
	sortByTable(toRestore, f.selection.view.Mounts)
	for _, m := range toRestore {
		if !crypt[m.Dev] {
			m.Source = devices[m.Point] // the kernel keeps the name that the device had when it was mounted
		}
		if _, pid := automountOf(f.selection.view.Mounts, m); pid > 1 {
			continue // an automounter other than systemd unmounts it when it stops, and mounts it again on access
		}
		rb.state.Mounts = append(rb.state.Mounts, mountSpecOf(m, toRestore, fstab))
	}
	for _, v := range f.selection.snapshots {
		for _, m := range filesystem.On(f.selection.view.Mounts, filesystem.NewDev(v.Major, v.Minor)) {
			rb.state.SetMounts = append(rb.state.SetMounts, mountSpecOf(m, nil, nil))
		}
	}
	for i := range f.targets {
		rb.state.Listed = append(rb.state.Listed, filesystem.FstabPoints(fstab, f.targets[i].FS)...)
	}
	rb.warnings = append(rb.warnings, filesystem.FstabWarnings(fstab, devices)...)
	return fault.All(errs...)
}

// sortByTable sorts mounts in the order of the kernel's table, in which a mount comes after the one that it lies below.
// The order of the mount IDs means nothing, because the kernel reuses them.
func sortByTable(mounts, table []filesystem.Mount) {
	position := map[int]int{}
	for i, m := range table {
		position[m.ID] = i
	}
	sort.SliceStable(mounts, func(i, j int) bool { return position[mounts[i].ID] < position[mounts[j].ID] })
}

// ownMounts returns the mounts of a volume that a rollback unmounts and makes again: those of the whole file system. A
// bind mount of a part of it was made by somebody on purpose, and belongs to them only with StopHolders.
func (rb *rollback) ownMounts(t *snapset.Target) []filesystem.Mount {
	notOwn := func(m filesystem.Mount) bool { return m.Root != "/" && !rb.StopHolders }
	return slices.DeleteFunc(slices.Clone(t.Mounts), notOwn)
}

// mountSpecOf returns how m is made again: from its device, or, for a bind mount, from the mount that shows the
// directory. A second mount of a whole file system that differs from the first in being read-only is made as a bind
// mount too, because the device itself has only one read-only state. all are the mounts that are made again.
func mountSpecOf(m filesystem.Mount, all []filesystem.Mount, fstab []filesystem.FstabEntry) filesystem.MountSpec {
	spec := filesystem.MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: m.RestoreOptions(fstab)}
	first := slices.IndexFunc(all, func(whole filesystem.Mount) bool { return whole.Dev == m.Dev && whole.Root == "/" })
	if first < 0 || m.Root == "/" && (all[first].Point == m.Point || all[first].ReadOnly() == m.ReadOnly()) {
		return spec
	}
	whole := all[first]
	bind := filesystem.MountSpec{Bind: filepath.Join(whole.Point, m.Root), Point: m.Point}
	if m.Options != whole.Options { // otherwise it inherits them
		bind.Options = m.Flags()
	}
	return bind
}

// planServices plans which units are stopped, and names everything else that holds the volumes open (busy). With Defer
// it returns the holders in f instead.
func (rb *rollback) planServices(ctx context.Context, f *findings) error {
	disturbed, err := rb.disturbedUnits(ctx)
	if err != nil {
		return err
	}
	plan, err := rb.systemd.Plan(ctx, rb.Services)
	if err != nil {
		return err
	}
	named := append(slices.Clone(rb.Services), except(disturbed, plan.Stop)...)
	if len(named) > len(rb.Services) {
		if plan, err = rb.systemd.Plan(ctx, named); err != nil {
			return err
		}
	}
	holders, err := rb.holders(ctx, f)
	if err != nil {
		return err
	}
	vouched := plan.Stop
	if rb.StopHolders {
		vouched = nil
	}
	if rb.Auto || rb.StopHolders {
		units, _, err := rb.systemd.ByProcess(ctx, pids(holders))
		if err != nil {
			return err
		}
		units = append(units, unitsBehind(holders)...)
		if plan, err = rb.systemd.Plan(ctx, append(named, except(units, plan.Stop)...)); err != nil {
			return err
		}
	}
	rb.state.Services = plan
	if err := rb.findHeldUnits(ctx, f); err != nil {
		return err
	}
	// What a unit leaves behind is no reason to refuse a unit that the user named: perhaps its main process ends it.
	outliving, err := rb.systemd.Outliving(ctx, except(plan.Stop, vouched), pids(holders))
	if err != nil {
		return err
	}
	return rb.judgeHolders(ctx, f, holders, outliving)
}

// judgeHolders names the holders that neither the stop of their units nor the rollback itself ends (busy). outliving
// are those that outlive the stop of their units. With Defer judgeHolders returns the holders in f instead.
func (rb *rollback) judgeHolders(
	ctx context.Context, f *findings, holders []filesystem.Holder, outliving []int,
) error {
	remaining := slices.DeleteFunc(holders, func(h filesystem.Holder) bool {
		return h.Unit != "" && slices.Contains(rb.state.Services.Stop, h.Unit) && !slices.Contains(outliving, h.PID)
	})
	if rb.StopHolders {
		f.toEnd, remaining = splitKillable(remaining)
	}
	if rb.Defer {
		f.holders = remaining
		return nil
	}
	_, transient, err := rb.systemd.ByProcess(ctx, pids(remaining))
	if err != nil {
		return err
	}
	return withOutliving(busyFault(remaining, transient), remaining, outliving)
}

// disturbedUnits returns the units that the unmount itself would disturb for good: those that systemd would stop with
// the mounts and not start again, and path units that watch something in them.
func (rb *rollback) disturbedUnits(ctx context.Context) ([]string, error) {
	bound, err := rb.systemd.BoundTo(ctx, rb.mountUnits())
	if err != nil {
		return nil, err
	}
	watching, err := rb.systemd.Watching(ctx, mountPoints(rb.state.Mounts))
	return append(bound, watching...), err
}

// usesVolumes is true if one of the units may work on the volumes. A path unit only watches them.
func usesVolumes(units []string) bool {
	return slices.ContainsFunc(units, func(unit string) bool { return !strings.HasSuffix(unit, ".path") })
}

// except returns those of the units that are not excluded.
func except(units, excluded []string) []string {
	return slices.DeleteFunc(slices.Clone(units), func(u string) bool { return slices.Contains(excluded, u) })
}

// mountPoints returns the mount points of specs.
func mountPoints(specs []filesystem.MountSpec) []string {
	var paths []string
	for _, s := range specs {
		paths = append(paths, s.Point)
	}
	return paths
}
