package snapset

import (
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// SetSpec is a set as the user asks for it.
type SetSpec struct {
	Set     string
	Volumes []Volume
	Size    string // COW space of volumes that have no size of their own; empty: a default that fits the free space
	Each    bool   // consistency=volume: each volume at an instant of its own
	Use     Use

	NoPostgreSQL bool // do not look for PostgreSQL clusters
}

// planner makes the plan of a set, for View.New. It gives the members their COW space (size.go) and their methods
// (instant.go).
type planner struct {
	view    *View
	want    SetSpec
	targets []Target
	plan    *Plan // its members are those of the targets, in the same order
}

// New plans a set of the targets. It changes nothing. Its error names everything that is in the way: bad_arguments,
// exists, merging, no_space, pool_damaged, no_single_instant, and those of Unreliable.
func (v *View) New(want SetSpec, id string, targets []Target) (*Plan, error) {
	p := &Plan{Set: want.Set, ID: id, Time: time.Now(), Each: want.Each, Use: want.Use}
	pl := &planner{view: v, want: want, targets: targets, plan: p}
	var errs []error
	for i := range targets {
		t := &targets[i]
		m := &Member{
			VG: t.LV.VG, LV: t.LV.Name, UUID: t.LV.UUID, Snapshot: SnapshotName(t.LV.Name, want.Set), DMName: t.LV.DMName,
			Thin: t.LV.Kind == lvm.Thin, Pool: t.LV.Pool,
			Log: IsPart(t, targets),
		}
		for _, mount := range t.Mounts {
			m.Points = append(m.Points, mount.Point)
		}
		errs = append(errs, checkTakeable(v.Report, t, m))
		p.Members = append(p.Members, m)
	}
	if want.Each {
		errs = append(errs, v.CheckSeparable(targets))
	}
	if want.Use == ForUser && !want.NoPostgreSQL { // a backup warns, and the rollback after a restore looks itself
		errs = append(errs, v.CheckClusters(targets, want.Each))
	}
	if err := fault.All(errs...); err != nil {
		return nil, err
	}
	if err := pl.sizeMembers(); err != nil {
		return nil, err
	}
	return p, pl.chooseMethods()
}

// checkTakeable says why no snapshot of the target can be taken now under the planned name.
func checkTakeable(r *lvm.Report, t *Target, m *Member) error {
	if err := lvm.CheckNew(m.VG, m.Snapshot); err != nil {
		return fault.New(fault.BadArguments, "%s: %w", t.LV.FullName(), err).WithHint("choose a shorter name for the set")
	}
	if existing, ok := r.Volume(m.VG, m.Snapshot); ok {
		return m.nameTakenFault(existing)
	}
	if err := Unreliable(t.LV); err != nil { // first, since LVM calls a failed merge merging, too
		return err
	}
	if err := CheckNotLocked(t.LV); err != nil {
		return err
	}
	if t.LV.Merging {
		return fault.New(fault.Merging, "%s is still merging; LVM takes no snapshot of it before that is done",
			t.LV.FullName()).
			WithHint("wait for the merge: lvm_snapshot_info shows its progress")
	}
	if !m.Thin {
		return nil
	}
	return checkPoolRoom(r, m)
}

// CheckNotLocked fails with unsupported for a volume that LVM has locked: it makes no snapshot of it and merges none.
func CheckNotLocked(v *lvm.Volume) error {
	if !v.Locked {
		return nil
	}
	return unsupported("%s is locked by LVM, as while pvmove moves its data to another disk", v.FullName()).
		WithHint("wait until pvmove has ended (lvs -a shows its progress), or end it with pvmove --abort")
}

// CheckMergeInto fails with unsupported for a volume into which LVM does not merge a snapshot, thin or not.
func CheckMergeInto(origin *lvm.Volume, thin bool) error {
	name := origin.FullName()
	switch {
	case origin.IsExternalOrigin:
		return unsupported("%s is an external origin: thin volumes were made of it and read its data, so LVM merges "+
			"nothing into it", name).
			WithHint("copy the data from the snapshot; lvs -o lv_full_name,origin shows the thin volumes")
	case origin.ReadOnly && !thin:
		return unsupported("%s is read-only: LVM merges nothing into it", name).
			WithHint("lvchange -prw %[1]s before a rollback, and lvchange -pr %[1]s after it", name)
	}
	return nil
}

// nameTakenFault returns the fault that a volume of the snapshot's name exists.
func (m *Member) nameTakenFault(existing *lvm.Volume) error {
	name := existing.FullName()
	if label, ok := LabelOf(existing); ok {
		return fault.New(fault.Exists, "%s exists and belongs to set %s", name, label.Set).
			WithHint("choose another name for the set")
	}
	if existing.IsSnapshot() && existing.Origin == m.LV {
		return fault.New(fault.Exists, "%s exists: a snapshot made by hand", name).
			WithHint("choose another name, remove it (lvremove %[1]s), or roll back to it: lvm_merge snapshots=%[1]s", name)
	}
	return fault.New(fault.Exists, "%s exists and is not Rewind's", name).WithHint("choose another name for the set")
}

// poolLimit is how full, in percent, a thin pool's data or metadata may be for a snapshot to be taken. Beyond that, any
// write to a volume of the pool might be the one that fills the pool.
const poolLimit = 95

// checkPoolRoom refuses a thin pool that is nearly full or damaged.
func checkPoolRoom(r *lvm.Report, m *Member) error {
	pool, err := r.Need(m.VG, m.Pool)
	if err != nil {
		return err
	}
	for what, percent := range map[string]*float64{"data": pool.DataPercent, "metadata": pool.MetadataPercent} {
		if percent != nil && *percent >= poolLimit {
			return fault.New(fault.NoSpace, "thin pool %s: its %s is %.1f%% full", pool.FullName(), what, *percent).
				WithHint("extend it first (lvextend %s); at %d%% no snapshot is taken", pool.FullName(), poolLimit)
		}
	}
	if bad, why := pool.Bad(); bad {
		return fault.New(fault.PoolDamaged, "thin pool %s of %s: %s", pool.FullName(), m.origin(), why).
			WithHint("see lvmthin(7), \"Metadata check and repair\"")
	}
	return nil
}
