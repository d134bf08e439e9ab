package rollback

import (
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// kin is another thick snapshot of a member's origin: what a merge writes to the origin, it must keep.
type kin struct {
	Name   string `json:"name"` // vg/lv
	DMName string `json:"dm_name"`
	Chunk  int64  `json:"chunk_bytes"`
	Free   int64  `json:"free_bytes"` // of its COW space, when it was looked at
}

// siblings are the member's kin that a merge could overflow.
func siblings(r *lvm.Report, m *Member, v *lvm.Volume) []kin {
	if m.Thin {
		return nil
	}
	origin, _ := r.Volume(m.VG, m.LV)
	var all []kin
	for _, other := range r.Snapshots(origin) {
		if other.UUID != v.UUID && !other.IsThinSnapshot() && !other.Lost() {
			all = append(all, kin{other.FullName(), other.DMName, other.ChunkSize, other.COWSize - other.COWUsed})
		}
	}
	return all
}

// spares refuses a merge that would overflow one of the siblings, as they were seen.
func (m *Member) spares() error {
	var wrong []error
	for _, k := range m.Siblings {
		wrong = append(wrong, m.fits(k, k.Free))
	}
	return fault.All(wrong...)
}

// fits refuses a merge that would overflow k, which has so many bytes of COW space left.
func (m *Member) fits(k kin, free int64) error {
	need := inChunks(m.Used, k.Chunk)
	if need <= free {
		return nil
	}
	return fault.New(fault.NoSpace, "merging %s writes up to %s to %s, but its other snapshot %s has only %s of COW space left and would be lost",
		m.snapshot(), ansible.Bytes(need), m.origin(), k.Name, ansible.Bytes(free)).
		With("space", []map[string]any{{"snapshot": k.Name, "free_bytes": free, "need_bytes": need}}).
		WithHint("extend it first (lvextend -L+%db %s), or remove it (lvremove %s), if no set needs it: lvm_snapshot_info", need-free, k.Name, k.Name)
}

// stillSpares is spares with what the kernel says now: what was written to the origin since the first look fills all its
// snapshots. One that is lost, or gone, has nothing left to lose.
func (m *Member) stillSpares(status map[string][]lvm.Target) error {
	var wrong []error
	for _, k := range m.Siblings {
		for _, t := range status[k.DMName] {
			if s, ok := t.Snapshot(); ok && !s.Lost() {
				wrong = append(wrong, m.fits(k, s.TotalBytes()-s.UsedBytes()))
			}
		}
	}
	return fault.All(wrong...)
}

// inChunks is how much COW space n bytes of scattered 4 KiB writes need at most in chunks of that size.
func inChunks(n, chunk int64) int64 {
	if chunk <= lvm.Chunk {
		return n
	}
	return n / lvm.Chunk * chunk
}

// orphans warns of the other thin snapshots of a volume: LVM's merge takes their origin away (lvm2 issue 193), and what
// has no origin cannot be merged.
func orphans(r *lvm.Report, m *Member, v *lvm.Volume) []string {
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
	return []string{fmt.Sprintf("merging %s takes the origin of %s's other thin snapshots away: %s cannot be rolled back to afterwards; their data stays readable",
		m.snapshot(), m.origin(), strings.Join(others, ", "))}
}
