package snapset

import (
	"time"

	"go.pcc.com/rewind/core/filesystem"
)

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
	label := Label{
		Set: p.Set, ID: p.ID, Count: len(p.Members), Time: p.Time, Use: p.Use,
		Each: p.Each && p.hasSeveralMembers(),
	}
	for _, m := range p.Members {
		label.Volumes = append(label.Volumes, m.origin())
	}
	return label
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
