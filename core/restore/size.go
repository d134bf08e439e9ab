package restore

import (
	"context"
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// checkPools fails with no_space, before anything is created, if a thin pool cannot hold what is to be written.
func (r *restoreRun) checkPools(ctx context.Context) error {
	isThin := func(t snapset.Target) bool { return t.LV.Kind == lvm.Thin }
	if r.planned.Existing || r.Size != "" || !slices.ContainsFunc(r.planned.Targets, isThin) {
		return nil
	}
	report, err := r.lvm.Report(ctx)
	if err != nil {
		return err
	}
	return checkPoolNeeds(report, r.backup.ID, r.planned.Targets, r.needs)
}

// sizeSnapshots sets the COW space of each thick volume from the estimate. It fails with no_space, before anything is
// created, if the volume groups have too little free space.
func (r *restoreRun) sizeSnapshots() error {
	if r.planned.Existing {
		return nil
	}
	if r.Size != "" {
		return r.planned.Resize() // so that the set's time is after the comparison
	}
	var errs []error
	minimum, members := map[string]int64{}, map[string]int64{}
	reserved := r.planned.Reserved()
	for _, t := range r.planned.Targets {
		members[t.LV.VG]++
	}
	for i := range r.planned.Targets {
		t := &r.planned.Targets[i]
		if t.LV.Kind == lvm.Thin {
			continue
		}
		minimum[t.LV.VG] += r.needs[i].Least + 2*minFree
		if t.Size == "" {
			share := (t.Group.Free - reserved[t.LV.VG]) / members[t.LV.VG] / 10 * 9
			t.Size = fmt.Sprintf("%db", min(r.wantedCOW(i), max(share, 2*minFree)))
		}
	}
	for i := range r.planned.Targets {
		group := r.planned.Targets[i].Group
		need, ok := minimum[group.Name]
		need += reserved[group.Name]
		if ok && need > group.Free {
			errs = append(errs, noSpaceFault(r.backup.ID, need, group))
		}
		delete(minimum, group.Name)
	}
	if err := fault.All(errs...); err != nil {
		return err
	}
	return r.planned.Resize()
}

// noSpaceFault returns the fault for a volume group that has less free than a restore needs. The need may be too high:
// restic shows the holes of a file as data, so that nobody knows before it is read how much of it is to be written.
func noSpaceFault(id string, need int64, group *lvm.Group) error {
	return fault.New(fault.NoSpace,
		"restoring backup %s writes at least %s to snapshots in volume group %s, which has %s free",
		id, ansible.Bytes(need), group.Name, ansible.Bytes(group.Free)).
		With("space", []map[string]any{{"vg": group.Name, "free_bytes": group.Free, "need_bytes": need}}).
		WithHint("add a physical volume (vgextend %s), remove old snapshots, or restore fewer volumes at once; %s",
			group.Name, sparseHint)
}

// sparseHint says how to go on where the least need is counted too high.
const sparseHint = "if the backup has large sparse files, of which restic counts the holes too, name size=SIZE: " +
	"then this is not checked"

// wantedCOW returns the COW space, in bytes, for the target with this index. It is the sum of what may be written, of
// LVM's own records in the COW space (one part in 256), of what the file system writes besides, and of what may be
// written to the origin meanwhile. A set that is not merged at once, so that somebody can look at it, gets no less than
// any other set.
func (r *restoreRun) wantedCOW(i int) int64 {
	most := r.needs[i].Most
	need := most + most/16 + 4*minFree
	if r.Merge {
		return need
	}
	return max(need, snapset.DefaultCOW(r.planned.Targets[i].LV.Size))
}
