package snapset

import (
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
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

// Member is one volume of a planned set, with its snapshot. It is kept in the journal, so it holds all that settling
// needs.
type Member struct {
	VG       string             `json:"vg"`
	LV       string             `json:"lv"` // the origin
	UUID     string             `json:"uuid,omitempty"`
	Snapshot string             `json:"snapshot"` // the name of its new snapshot, without the group
	DMName   string             `json:"dm_name"`  // of the origin
	Thin     bool               `json:"thin"`
	Pool     string             `json:"pool,omitempty"`
	Extents  int64              `json:"extents,omitempty"`   // of COW space
	COW      int64              `json:"cow_bytes,omitempty"` // COW space; 0 for a thin volume
	Method   Method             `json:"method"`
	Target   *filesystem.Target `json:"target,omitempty"` // the file system that is frozen; nil: none
	Home     bool               `json:"home,omitempty"`   // the volume holds the journal
	Points   []string           `json:"points,omitempty"` // where the origin is mounted
	Log      bool               `json:"log,omitempty"`    // it is a part of another member's file system: see IsPart
}

// origin and snapshot return vg/lv.

func (m *Member) origin() string   { return m.VG + "/" + m.LV }
func (m *Member) snapshot() string { return m.VG + "/" + m.Snapshot }

// Plan is how a new set will be taken. It is kept in the journal.
type Plan struct {
	Set     string    `json:"set"`
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Each    bool      `json:"each,omitempty"` // each volume at an instant of its own
	Use     Use       `json:"use,omitempty"`
	Members []*Member `json:"members"`
	// Mounted are mounts of an existing set's snapshots that Undo unmounts.
	Mounted []filesystem.Target `json:"mounted,omitempty"`
}

// label returns what the tags of the finished set's snapshots say.
func (p *Plan) label() Label {
	return Label{
		Set: p.Set, ID: p.ID, Count: len(p.Members), Time: p.Time, Use: p.Use,
		Each: p.Each && p.hasSeveralMembers(),
	}
}

// hasSeveralMembers says whether the set has more than one member. The snapshots of such a set are made before its
// instant. Until the instant is over they lack the tag with the number of members, so that nobody takes them for a set.
func (p *Plan) hasSeveralMembers() bool { return len(p.Members) > 1 }

// initialTags returns the tags that a member's snapshot is created with.
func (p *Plan) initialTags() []string {
	label := p.label()
	if p.hasSeveralMembers() {
		label.Count = 0
	}
	return label.tags()
}

// creationOrder returns the members in the order in which their snapshots are made. The member that holds the journal
// comes first: see findJournalRollback.
func (p *Plan) creationOrder() []*Member {
	byHome := func(isHome bool) []*Member { return p.membersWhere(func(m *Member) bool { return m.Home == isHome }) }
	return append(byHome(true), byHome(false)...)
}

func (p *Plan) heldMembers() []*Member {
	return p.membersWhere(func(m *Member) bool { return m.Method == Held })
}

func (p *Plan) membersWhere(which func(*Member) bool) []*Member {
	var out []*Member
	for _, m := range p.Members {
		if which(m) {
			out = append(out, m)
		}
	}
	return out
}

// points returns the mount points of all members.
func (p *Plan) points() []string {
	var all []string
	for _, m := range p.Members {
		all = append(all, m.Points...)
	}
	return all
}

// Groups returns the names of the volume groups that the set will lie in, sorted.
func (p *Plan) Groups() []string {
	var groups []string
	for _, m := range p.Members {
		groups = append(groups, m.VG)
	}
	return sortedUnique(groups)
}

// New plans a set of the targets. It changes nothing. Its error names everything that is in the way: bad_arguments,
// exists, merging, no_space, pool_damaged, no_single_instant, and those of Unreliable.
func (v *View) New(want SetSpec, id string, targets []Target) (*Plan, error) {
	p := &Plan{Set: want.Set, ID: id, Time: time.Now(), Each: want.Each, Use: want.Use}
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
		errs = append(errs, v.checkTakeable(t, m))
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
	if err := v.sizeMembers(want, p, targets); err != nil {
		return nil, err
	}
	return p, v.chooseMethods(p, targets)
}

// checkTakeable says why no snapshot of the target can be taken now under the planned name.
func (v *View) checkTakeable(t *Target, m *Member) error {
	if err := lvm.CheckNew(m.VG, m.Snapshot); err != nil {
		return fault.New(fault.BadArguments, "%s: %w", t.LV.FullName(), err).WithHint("choose a shorter name for the set")
	}
	if existing, ok := v.Report.Volume(m.VG, m.Snapshot); ok {
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
	return v.checkPoolRoom(m)
}

// CheckNotLocked fails with unsupported for a volume that LVM has locked: it makes no snapshot of it and merges none.
func CheckNotLocked(v *lvm.Volume) error {
	if !v.Locked {
		return nil
	}
	return unsupported("%s is locked by LVM, as while pvmove moves its data to another disk", v.FullName()).
		WithHint("wait until pvmove has ended (lvs -a shows its progress), or end it with pvmove --abort")
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
func (v *View) checkPoolRoom(m *Member) error {
	pool, err := v.Report.Need(m.VG, m.Pool)
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
