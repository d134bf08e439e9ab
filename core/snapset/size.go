package snapset

import (
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// The default COW space is a fifth of its origin's size, and at least minCOW, which gives the administrator of a busy
// server minutes to notice. If the group has too little for all members, each gets minCOW and its proportional share of
// what is left of the free space, of which a tenth stays free.
const (
	defaultShare  = 5        // 1/5 of the origin
	keepFreeShare = 10       // 1/10 of the group's free space
	minCOW        = 32 << 20 // bytes
)

// sizeMembers gives every thick member its COW space, and checks that the groups have room for all members.
func (pl *planner) sizeMembers() error {
	var errs []error
	for i, m := range pl.plan.Members {
		if m.Thin {
			continue
		}
		t := &pl.targets[i]
		maxCOW := lvm.MaxCOW(t.LV.Size, lvm.Chunk, t.Group.ExtentSize)
		requested, given, err := requestedSize(pl.want, t)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !given:
			m.COW = min(maxCOW, roundTo(DefaultCOW(t.LV.Size), t.Group.ExtentSize))
		case requested == 0:
			errs = append(errs, fault.New(fault.NoSpace, "volume group %s has no free space: %s of %s is 0 bytes",
				t.Group.Name, sizeText(pl.want, t), t.LV.FullName()).
				WithHint("add a physical volume (vgextend %s) or remove an old snapshot", t.Group.Name))
		default:
			m.COW = min(maxCOW, requested)
		}
	}
	if err := fault.All(errs...); err != nil {
		return err
	}
	for _, group := range pl.plan.Groups() {
		errs = append(errs, pl.fitGroup(group))
	}
	for i, m := range pl.plan.Members {
		if !m.Thin {
			m.Extents = m.COW / pl.targets[i].Group.ExtentSize
		}
	}
	return fault.All(errs...)
}

// DefaultCOW is the COW space, in bytes, for a volume of this size, in bytes, if the user gives no size and the group
// has room.
func DefaultCOW(size int64) int64 { return max(size/defaultShare, minCOW) }

// sizeText returns the size that the user gave for the target; empty if the user gave none.
func sizeText(want SetSpec, t *Target) string {
	if t.Size != "" {
		return t.Size
	}
	return want.Size
}

// requestedSize returns the COW space that the user wants for the target, in bytes: 0 if it is a share of the free
// space of a group that has none. given is false if the user gave no size.
func requestedSize(want SetSpec, t *Target) (bytes int64, given bool, err error) {
	text := sizeText(want, t)
	if text == "" {
		return 0, false, nil
	}
	size, err := lvm.ParseSize(text)
	if err != nil {
		return 0, true, fault.New(fault.BadArguments, "size of %s: %w", t.LV.FullName(), err)
	}
	space := lvm.Space{Origin: t.LV.Size, Free: t.Group.Free, VG: t.Group.Size, Extent: t.Group.ExtentSize}
	if size.Base() == "USED" {
		if space.OriginUsed, err = usedBytes(t); err != nil {
			return 0, true, err
		}
	}
	return size.Bytes(space), true, nil
}

// usedBytes returns how much of the target's file system is in use.
func usedBytes(t *Target) (int64, error) {
	if len(t.Mounts) == 0 {
		return 0, fault.New(fault.BadArguments, "size of %s: %%USED needs a mounted file system", t.LV.FullName()).
			WithHint("mount it, or give the size as %%ORIGIN")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(t.Mounts[0].Point, &st); err != nil {
		return 0, fault.New(fault.Internal, "%s: %w", t.Mounts[0].Point, err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, nil
}

// fitGroup shrinks the COW space of the members that have no requested size so that all members fit into the group's
// free space, or fails with no_space.
func (pl *planner) fitGroup(group string) error {
	g, _ := pl.view.Report.Group(group)
	var fixedCOW, flexibleCOW int64
	var flexible []*Member // those that have no requested size
	for i, m := range pl.plan.Members {
		switch {
		case m.VG != group || m.Thin:
		case pl.targets[i].Size == "" && pl.want.Size == "":
			flexible, flexibleCOW = append(flexible, m), flexibleCOW+m.COW
		default:
			fixedCOW += m.COW
		}
	}
	available := g.Free - fixedCOW
	if available < 0 {
		return noSpaceInGroup(g, fixedCOW).
			WithHint("give less (size), extend the group (vgextend %s), or remove an old snapshot", g.Name)
	}
	usable := available - available/keepFreeShare
	if flexibleCOW <= usable {
		return nil
	}
	minimum := roundTo(minCOW, g.ExtentSize)
	least := func(m *Member) int64 { return min(m.COW, minimum) } // a small volume needs less
	var leastOfAll int64
	for _, m := range flexible {
		leastOfAll += least(m)
	}
	if leastOfAll > usable {
		return noSpaceInGroup(g, fixedCOW+leastOfAll).
			WithHint("without a size a snapshot gets at least %s, and a tenth of the free space stays free: extend the group "+
				"(vgextend %s), remove an old snapshot, or give a size", ansible.Bytes(minimum), g.Name)
	}
	share := float64(usable-leastOfAll) / float64(flexibleCOW-leastOfAll)
	for _, m := range flexible {
		m.COW = least(m) + int64(float64(m.COW-least(m))*share)/g.ExtentSize*g.ExtentSize
	}
	return nil
}

// noSpaceInGroup returns the fault that a volume group has less free space than the set needs, in bytes.
func noSpaceInGroup(g *lvm.Group, need int64) *fault.Error {
	notCounted := ""
	for _, pv := range g.PVs {
		if pv.NoAlloc {
			notCounted += " " + pv.Device
		}
	}
	if notCounted != "" {
		notCounted = " (not on" + notCounted + ": pvchange -xn)"
	}
	return fault.New(fault.NoSpace, "volume group %s has %s free%s, the set needs %s",
		g.Name, ansible.Bytes(g.Free), notCounted, ansible.Bytes(need)).
		With("space", []map[string]any{{"vg": g.Name, "free_bytes": g.Free, "need_bytes": need}})
}

// roundTo rounds n up to a multiple of unit.
func roundTo(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
