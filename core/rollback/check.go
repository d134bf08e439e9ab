package rollback

import (
	"context"
	"path/filepath"
	"slices"
	"sort"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// found is what check found besides the state.
type found struct {
	sight   *sight
	targets []snapset.Target
	kill    []condemned         // processes to end, as the user asked
	holders []filesystem.Holder // what keeps volumes open and may not be ended; only with Defer
}

// check looks at everything that could be in the way, and names all of it. Nothing is changed.
func (w *walk) check(ctx context.Context, s *sight) (*found, error) {
	f := &found{sight: s}
	if s.set != nil {
		if err := s.set.Check(); err != nil {
			return nil, err
		}
	}
	w.state = &State{Set: w.name(), Start: w.StartServices, Resnapshot: w.Resnapshot}
	if s.set != nil {
		w.state.ID, w.state.Taken, w.state.Restored = s.set.ID, s.set.Time, s.set.Restored
		w.warnOfInstants(s.set)
	}
	var wrong []error
	var origins []snapset.Volume
	for _, v := range s.snapshots {
		m, err := member(s.view.Report, v)
		if err == nil && m.Thin {
			err = w.poolSound(ctx, s.view.Report, m)
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if w.state.Taken.IsZero() || v.Created.Before(w.state.Taken) {
			w.state.Taken = v.Created
		}
		m.Siblings = siblings(s.view.Report, m, v)
		wrong = append(wrong, m.spares())
		w.warnings = append(w.warnings, orphans(s.view.Report, m, v)...)
		w.state.Members = append(w.state.Members, m)
		origins = append(origins, snapset.Volume{Name: m.origin()})
	}
	if err := fault.All(wrong...); err != nil {
		return nil, err
	}
	var err error
	if f.targets, err = s.view.Resolve(origins); err != nil {
		return nil, err
	}
	for i, m := range w.state.Members {
		m.LogOf = logOf(&f.targets[i], f.targets)
		if m.Protect, err = w.writable(f.targets[i].LV); err != nil {
			return nil, err
		}
	}
	if err := w.mounts(f); err != nil {
		return nil, err
	}
	if err := w.crypts(ctx, f); err != nil {
		return nil, err
	}
	return f, w.services(ctx, f)
}

// warnOfInstants says that the volumes go back to several instants.
func (w *walk) warnOfInstants(set *snapset.Set) {
	if set.Each {
		w.warnings = append(w.warnings, "set "+set.Set+" was taken with consistency=volume: its volumes go back to "+
			"instants that follow each other, not to one")
	}
}

// member refuses a snapshot that cannot be merged.
func member(r *lvm.Report, v *lvm.Volume) (*Member, error) {
	if err := snapset.Unreliable(v); err != nil {
		return nil, err
	}
	if v.Merging {
		return nil, fault.New(fault.Merging, "%s is merging already, by another hand", v.FullName()).
			WithHint("lvs -a shows how far it is; if its volume is in use the merge waits for its next activation")
	}
	origin, ok := r.Volume(v.VG, v.Origin)
	if ok {
		if err := snapset.Unreliable(origin); err != nil {
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
		Thin: v.IsThinSnapshot(), Pool: v.Pool, COWSize: v.COWSize, Used: v.COWUsed,
	}, nil
}

// poolSound refuses a merge in a thin pool whose metadata cannot be trusted: it may lose the origin. A pool that has no
// data space left is none of those, and a merge gives it back some.
func (w *walk) poolSound(ctx context.Context, r *lvm.Report, m *Member) error {
	pool, err := r.Need(m.VG, m.Pool)
	if err != nil {
		return err
	}
	status, err := w.lvm.Status(ctx)
	if err != nil {
		return err
	}
	seen := *pool
	if seen.Health == lvm.OutOfData {
		seen.Health = lvm.Healthy
	}
	bad, why := seen.Bad()
	if !bad && lvm.PoolDamaged(pool, status) {
		bad, why = true, "its transaction id in the kernel is not the one LVM expects"
	}
	if !bad {
		return nil
	}
	return fault.New(fault.PoolDamaged, "thin pool %s of %s: %s", pool.FullName(), m.origin(), why).
		WithHint("see lvmthin(7), \"Metadata check and repair\"")
}

// mounts plans what is unmounted and mounted again.
func (w *walk) mounts(f *found) error {
	needed := filesystem.InUse(f.sight.view.Mounts, journey.State, "/usr")
	fstab, err := filesystem.Fstab("/etc/fstab")
	if err != nil {
		return err
	}
	devices, crypt := map[string]string{}, map[filesystem.Dev]bool{}
	var wrong []error
	var all []filesystem.Mount
	for i := range f.targets {
		t := &f.targets[i]
		path, must := needed[t.FS]
		if err := w.undermines(t, path); err != nil {
			wrong = append(wrong, err)
		} else if must && !w.Defer {
			wrong = append(wrong, fault.New(fault.Busy, "%s holds %s and cannot be closed while the server runs", t.LV.FullName(), path).
				WithHint("when_busy=defer merges it at the next boot"))
		}
		for _, m := range w.ownMounts(t) {
			all = append(all, m)
			devices[m.Point] = t.LV.Path
			crypt[m.Dev] = t.Crypt != ""
		}
	}
	inOrder(all, f.sight.view.Mounts)
	for _, m := range all {
		if !crypt[m.Dev] {
			m.Source = devices[m.Point] // the kernel goes on calling the device what it was called at the mount
		}
		if _, pid := trapOf(f.sight.view.Mounts, m); pid > 1 {
			continue // the program that has mounted it unmounts it when it is stopped, and mounts it at the next look
		}
		w.state.Mounts = append(w.state.Mounts, again(m, all, fstab))
	}
	for _, v := range f.sight.snapshots {
		for _, m := range filesystem.On(f.sight.view.Mounts, filesystem.NewDev(v.Major, v.Minor)) {
			w.state.SetMounts = append(w.state.SetMounts, again(m, nil, nil))
		}
	}
	for i := range f.targets {
		w.state.Listed = append(w.state.Listed, filesystem.FstabPoints(fstab, f.targets[i].FS)...)
	}
	w.warnings = append(w.warnings, filesystem.FstabWarnings(fstab, devices)...)
	return fault.All(wrong...)
}

// inOrder sorts mounts as the kernel's table has them: one below another comes after it. Their numbers say nothing, the
// kernel gives them again.
func inOrder(some, table []filesystem.Mount) {
	place := map[int]int{}
	for i, m := range table {
		place[m.ID] = i
	}
	sort.SliceStable(some, func(i, j int) bool { return place[some[i].ID] < place[some[j].ID] })
}

// ownMounts are the mounts of a volume that a rollback undoes and makes again by itself: those of the whole file
// system. A bind mount of a part of it is somebody's doing and only touched if holders are to be stopped.
func (w *walk) ownMounts(t *snapset.Target) []filesystem.Mount {
	return slices.DeleteFunc(slices.Clone(t.Mounts), func(m filesystem.Mount) bool { return m.Root != "/" && !w.StopHolders })
}

// again is how a mount is made again: from its device, or for a bind mount from the mount that shows the directory. A
// second mount of a file system that differs from the first in being read-only is one, too: the device itself has
// only one state.
func again(m filesystem.Mount, all []filesystem.Mount, fstab []filesystem.FstabEntry) filesystem.MountSpec {
	spec := filesystem.MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: m.RestoreOptions(fstab)}
	first := slices.IndexFunc(all, func(whole filesystem.Mount) bool { return whole.Dev == m.Dev && whole.Root == "/" })
	if first < 0 || m.Root == "/" && (all[first].Point == m.Point || all[first].ReadOnly() == m.ReadOnly()) {
		return spec
	}
	whole := all[first]
	bind := filesystem.MountSpec{Bind: filepath.Join(whole.Point, m.Root), Point: m.Point}
	if m.Options != whole.Options { // else it inherits them
		bind.Options = m.Flags()
	}
	return bind
}

// services plans what is stopped, and names whatever else holds the volumes open.
func (w *walk) services(ctx context.Context, f *found) error {
	bound, err := w.systemd.BoundTo(ctx, w.mountUnits()) // which the unmount would stop, and nobody start again
	if err != nil {
		return err
	}
	plan, err := w.systemd.Plan(ctx, w.Services)
	if err != nil {
		return err
	}
	named := append(slices.Clone(w.Services), missing(bound, plan.Stop)...)
	if len(named) > len(w.Services) {
		if plan, err = w.systemd.Plan(ctx, named); err != nil {
			return err
		}
	}
	holders, err := w.holders(ctx, f)
	if err != nil {
		return err
	}
	if w.Auto || w.StopHolders {
		units, _, err := w.systemd.ByProcess(ctx, pids(holders))
		if err != nil {
			return err
		}
		units = append(units, unitsBehind(holders)...)
		if plan, err = w.systemd.Plan(ctx, append(named, missing(units, plan.Stop)...)); err != nil {
			return err
		}
	}
	w.state.Services = plan
	if err := w.findHeld(ctx, f); err != nil {
		return err
	}
	stopped := func(h filesystem.Holder) bool { return h.Unit != "" && slices.Contains(plan.Stop, h.Unit) }
	rest := slices.DeleteFunc(holders, stopped)
	if w.StopHolders {
		f.kill, rest = killable(rest)
	}
	if w.Defer {
		f.holders = rest
		return nil
	}
	_, transient, err := w.systemd.ByProcess(ctx, pids(rest))
	if err != nil {
		return err
	}
	return busy(rest, transient)
}

func missing(units, from []string) []string {
	return slices.DeleteFunc(slices.Clone(units), func(u string) bool { return slices.Contains(from, u) })
}

func points(specs []filesystem.MountSpec) []string {
	var out []string
	for _, s := range specs {
		out = append(out, s.Point)
	}
	return out
}
