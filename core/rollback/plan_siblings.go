package rollback

import (
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// sibling is another thick snapshot of the origin of a member. It must record what a merge overwrites in the origin.
type sibling struct {
	Name   string `json:"name"` // vg/lv
	DMName string `json:"dm_name"`
	Chunk  int64  `json:"chunk_bytes"`
	Free   int64  `json:"free_bytes"` // free COW space at the check
}

// siblingsOf returns the siblings of a member, whose snapshot is v: those that the merge could make overflow.
func siblingsOf(r *lvm.Report, m *Member, v *lvm.Volume) []sibling {
	if m.Thin {
		return nil
	}
	origin, _ := r.Volume(m.VG, m.LV)
	var list []sibling
	for _, other := range r.Snapshots(origin) {
		if other.UUID != v.UUID && !other.IsThinSnapshot() && !other.Lost() {
			list = append(list, sibling{other.FullName(), other.DMName, other.ChunkSize, other.COWSize - other.COWUsed})
		}
	}
	return list
}

// checkSiblings refuses a merge that would make a sibling overflow, by the free space that was found at the check
// (no_space).
func (m *Member) checkSiblings() error {
	var errs []error
	for _, sib := range m.Siblings {
		errs = append(errs, m.checkSibling(sib, sib.Free))
	}
	return fault.All(errs...)
}

// checkSibling refuses a merge that would make the sibling overflow, which has free bytes of COW space left (no_space).
func (m *Member) checkSibling(sib sibling, free int64) error {
	need := cowBytes(m.Used, sib.Chunk)
	if need <= free {
		return nil
	}
	return fault.New(fault.NoSpace,
		"merging %s writes up to %s to %s, but its other snapshot %s has only %s of COW space left and would be lost",
		m.snapshot(), ansible.Bytes(need), m.origin(), sib.Name, ansible.Bytes(free)).
		With("space", []map[string]any{{"snapshot": sib.Name, "free_bytes": free, "need_bytes": need}}).
		WithHint("extend it first (lvextend -L+%db %s), or remove it (lvremove %[2]s), if no set needs it: lvm_snapshot_info",
			need-free, sib.Name)
}

// recheckSiblings is checkSiblings with the free space that the kernel reports now: what was written to the origin
// since the check has filled its snapshots further. A sibling that has overflowed, or is gone, has nothing left to
// lose.
func (m *Member) recheckSiblings(status map[string][]lvm.Target) error {
	var errs []error
	for _, sib := range m.Siblings {
		for _, t := range status[sib.DMName] {
			if s, ok := t.Snapshot(); ok && !s.Lost() {
				errs = append(errs, m.checkSibling(sib, s.TotalBytes()-s.UsedBytes()))
			}
		}
	}
	return fault.All(errs...)
}

// cowBytes returns how much COW space n bytes of scattered 4 KiB writes need at most, in chunks of this size.
func cowBytes(n, chunk int64) int64 {
	if chunk <= lvm.Chunk {
		return n
	}
	return n / lvm.Chunk * chunk
}

// orphanWarnings warns of the other thin snapshots of a volume: LVM's merge leaves them without an origin (lvm2 issue
// 193), and a snapshot without an origin cannot be merged.
func orphanWarnings(r *lvm.Report, m *Member, v *lvm.Volume) []string {
	if !m.Thin {
		return nil
	}
	origin, _ := r.Volume(m.VG, m.LV)
	var others []string
	for _, other := range r.Snapshots(origin) {
		if other.UUID == v.UUID || !other.IsThinSnapshot() {
			continue
		}
		name := other.FullName()
		if label, ours := snapset.LabelOf(other); ours {
			name += " of set " + label.Set
		}
		others = append(others, name)
	}
	if len(others) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("merging %s takes the origin of %s's other thin snapshots away: "+
		"%s cannot be rolled back to afterwards; their data stays readable",
		m.snapshot(), m.origin(), strings.Join(others, ", "))}
}
