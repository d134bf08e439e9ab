package snapset

import (
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Want is a set as the user asks for it.
type Want struct {
	Set     string
	Volumes []Volume
	Size    string // for volumes that say none; empty: sized for the free space
	Each    bool   // consistency: volume, each by itself
	Use     Use
}

// Member is one snapshot of a plan. It is kept in the journal, so it holds all that settling needs.
type Member struct {
	VG       string             `json:"vg"`
	LV       string             `json:"lv"`       // the origin
	Snapshot string             `json:"snapshot"` // the name of the new volume
	DMName   string             `json:"dm_name"`  // of the origin
	Thin     bool               `json:"thin"`
	Pool     string             `json:"pool,omitempty"`
	Extents  int64              `json:"extents,omitempty"`
	COW      int64              `json:"cow_bytes,omitempty"` // 0: thin
	Method   Method             `json:"method"`
	Target   *filesystem.Target `json:"target,omitempty"` // what is frozen
	Home     bool               `json:"home,omitempty"`   // it holds the journal
	Points   []string           `json:"points,omitempty"`
	Log      bool               `json:"log,omitempty"` // of another member's file system
}

func (m *Member) origin() string   { return m.VG + "/" + m.LV }
func (m *Member) snapshot() string { return m.VG + "/" + m.Snapshot }

// Plan is how a new set will be taken.
type Plan struct {
	Set     string    `json:"set"`
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Each    bool      `json:"each,omitempty"`
	Use     Use       `json:"use,omitempty"`
	Members []*Member `json:"members"`
	// Mounted are mounts of an existing set's snapshots that are to be undone.
	Mounted []filesystem.Target `json:"mounted,omitempty"`
}

func (p *Plan) label() Label {
	return Label{Set: p.Set, ID: p.ID, Count: len(p.Members), Time: p.Time, Use: p.Use, Each: p.Each && p.late()}
}

// late says that the set's snapshots are made before its instant: until that is over they lack the tag that makes a set
// of them, so that nobody takes them for one.
func (p *Plan) late() bool { return len(p.Members) > 1 }

// firstTags are what a member's snapshot is made with.
func (p *Plan) firstTags() []string {
	label := p.label()
	if p.late() {
		label.Count = 0
	}
	return label.tags()
}

// inOrder are the members as their snapshots are made, the one that holds the journal first: see cameBack.
func (p *Plan) inOrder() []*Member {
	home := func(is bool) []*Member { return p.pick(func(m *Member) bool { return m.Home == is }) }
	return append(home(true), home(false)...)
}

func (p *Plan) held() []*Member {
	return p.pick(func(m *Member) bool { return m.Method == Held })
}

func (p *Plan) pick(which func(*Member) bool) []*Member {
	var out []*Member
	for _, m := range p.Members {
		if which(m) {
			out = append(out, m)
		}
	}
	return out
}

// Groups are the names of the volume groups the set will lie in, sorted.
func (p *Plan) Groups() []string {
	var groups []string
	for _, m := range p.Members {
		groups = append(groups, m.VG)
	}
	return unique(groups)
}

// New plans a set of the targets. It changes nothing, and names everything that is in the way.
func (v *View) New(w Want, id string, targets []Target) (*Plan, error) {
	p := &Plan{Set: w.Set, ID: id, Time: time.Now(), Each: w.Each, Use: w.Use}
	var wrong []error
	for i := range targets {
		t := &targets[i]
		m := &Member{
			VG: t.LV.VG, LV: t.LV.Name, Snapshot: SnapshotName(t.LV.Name, w.Set), DMName: t.LV.DMName,
			Thin: t.LV.Kind == lvm.Thin, Pool: t.LV.Pool,
			Log: IsPart(t, targets),
		}
		for _, mount := range t.Mounts {
			m.Points = append(m.Points, mount.Point)
		}
		wrong = append(wrong, v.takeable(t, m))
		p.Members = append(p.Members, m)
	}
	if err := fault.All(wrong...); err != nil {
		return nil, err
	}
	if err := v.size(w, p, targets); err != nil {
		return nil, err
	}
	return p, v.choose(p, targets)
}

// takeable says why no snapshot of that name can be taken of the target now.
func (v *View) takeable(t *Target, m *Member) error {
	if err := lvm.CheckNew(m.VG, m.Snapshot); err != nil {
		return fault.New(fault.BadArguments, "%s: %w", t.LV.FullName(), err).WithHint("choose a shorter name for the set")
	}
	if there, ok := v.Report.Volume(m.VG, m.Snapshot); ok {
		return m.nameTaken(there)
	}
	if err := Unreliable(t.LV); err != nil { // a merge that failed is one that LVM still calls merging
		return err
	}
	if t.LV.Merging {
		return fault.New(fault.Merging, "%s is still merging; LVM takes no snapshot of it before that is done", t.LV.FullName()).
			WithHint("wait for the merge: lvm_snapshot_info shows its progress")
	}
	if !m.Thin {
		return nil
	}
	return v.poolHasRoom(m)
}

func (m *Member) nameTaken(there *lvm.Volume) error {
	f := fault.New(fault.Exists, "%s exists and is not of set %q", there.FullName(), setOf(there))
	if label, ok := LabelOf(there); ok {
		f.Msg = there.FullName() + " exists and belongs to set " + label.Set
		return f.WithHint("choose another name for the set")
	}
	if there.IsSnapshot() && there.Origin == m.LV {
		f.Msg = there.FullName() + " exists: a snapshot made by hand"
		return f.WithHint("choose another name, remove it (lvremove %s), or roll back to it: lvm_merge snapshots=%s", there.FullName(), there.FullName())
	}
	f.Msg = there.FullName() + " exists and is not Rewind's"
	return f.WithHint("choose another name for the set")
}

func setOf(v *lvm.Volume) string {
	label, _ := LabelOf(v)
	return label.Set
}

// poolFull is how full, in percent, a thin pool's data or metadata may be before a snapshot is refused: beyond it every
// write to any volume of the pool may be the last.
const poolFull = 95

func (v *View) poolHasRoom(m *Member) error {
	pool, err := v.Report.Need(m.VG, m.Pool)
	if err != nil {
		return err
	}
	for what, percent := range map[string]*float64{"data": pool.DataPercent, "metadata": pool.MetadataPercent} {
		if percent != nil && *percent >= poolFull {
			return fault.New(fault.NoSpace, "thin pool %s: its %s is %.1f%% full", pool.FullName(), what, *percent).
				WithHint("extend it first (lvextend %s); at %d%% no snapshot is taken", pool.FullName(), poolFull)
		}
	}
	if bad, why := pool.Bad(); bad {
		return fault.New(fault.PoolDamaged, "thin pool %s of %s: %s", pool.FullName(), m.origin(), why).
			WithHint("see lvmthin(7), \"Metadata check and repair\"")
	}
	return nil
}
