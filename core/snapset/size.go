package snapset

import (
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// The default size of a COW: a fifth of its origin, or its fair part of what is left when a tenth of the group stays
// free; never less than the floor, at which a busy server has minutes to notice.
const (
	defaultShare = 5 // 1/5 of the origin
	keepFree     = 10
	floorBytes   = 32 << 20
)

// size gives every thick member its COW space and checks that all groups have room for all members.
func (v *View) size(w Want, p *Plan, targets []Target) error {
	var wrong []error
	for i, m := range p.Members {
		if m.Thin {
			continue
		}
		t := &targets[i]
		most := lvm.MaxCOW(t.LV.Size, lvm.Chunk, t.Group.ExtentSize)
		asked, err := askedSize(w, t)
		switch {
		case err != nil:
			wrong = append(wrong, err)
		case asked == 0:
			m.COW = min(most, roundTo(DefaultCOW(t.LV.Size), t.Group.ExtentSize))
		default:
			m.COW = min(most, asked)
		}
	}
	if err := fault.All(wrong...); err != nil {
		return err
	}
	for _, group := range p.Groups() {
		wrong = append(wrong, v.fit(w, p, targets, group))
	}
	for i, m := range p.Members {
		if !m.Thin {
			m.Extents = m.COW / targets[i].Group.ExtentSize
		}
	}
	return fault.All(wrong...)
}

// DefaultCOW is the COW space, in bytes, that the snapshot of a volume of this size gets where nothing is said of it and
// the group has room.
func DefaultCOW(size int64) int64 { return max(size/defaultShare, floorBytes) }

// askedSize is what the user wants for the target, in bytes; 0 if nothing is said.
func askedSize(w Want, t *Target) (int64, error) {
	text := t.Size
	if text == "" {
		text = w.Size
	}
	if text == "" {
		return 0, nil
	}
	size, err := lvm.ParseSize(text)
	if err != nil {
		return 0, fault.New(fault.BadArguments, "size of %s: %w", t.LV.FullName(), err)
	}
	space := lvm.Space{Origin: t.LV.Size, Free: t.Group.Free, VG: t.Group.Size, Extent: t.Group.ExtentSize}
	if size.Base() == "USED" {
		if space.OriginUsed, err = used(t); err != nil {
			return 0, err
		}
	}
	bytes := size.Bytes(space)
	if bytes == 0 {
		return 0, fault.New(fault.NoSpace, "volume group %s has no free space: %s of %s is nothing", t.Group.Name, text, t.LV.FullName()).
			WithHint("add a physical volume (vgextend %s) or remove an old snapshot", t.Group.Name)
	}
	return bytes, nil
}

func used(t *Target) (int64, error) {
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

// fit makes the members without a size of their own fit into the group's free space, or says what is missing.
func (v *View) fit(w Want, p *Plan, targets []Target, group string) error {
	g, _ := v.Report.Group(group)
	var fixed, open int64
	var free []*Member // whose size is ours to choose
	for i, m := range p.Members {
		switch {
		case m.VG != group || m.Thin:
		case targets[i].Size == "" && w.Size == "":
			free, open = append(free, m), open+m.COW
		default:
			fixed += m.COW
		}
	}
	left := g.Free - fixed
	if left < 0 {
		return noRoom(g, fixed).WithHint("give less (size), extend the group (vgextend %s), or remove an old snapshot", g.Name)
	}
	room := left - left/keepFree
	if open <= room {
		return nil
	}
	floor := roundTo(floorBytes, g.ExtentSize)
	for _, m := range free {
		m.COW = min(m.COW, int64(float64(m.COW)/float64(open)*float64(room))/g.ExtentSize*g.ExtentSize)
		if m.COW < floor {
			return noRoom(g, fixed+floor*int64(len(free))).WithHint(
				"without a size each snapshot gets at least %s: extend the group (vgextend %s), remove an old snapshot, or give a smaller size", ansible.Bytes(floor), g.Name)
		}
	}
	return nil
}

func noRoom(g *lvm.Group, need int64) *fault.Error {
	return fault.New(fault.NoSpace, "volume group %s has %s free, the set needs %s", g.Name, ansible.Bytes(g.Free), ansible.Bytes(need)).
		With("space", []map[string]any{{"vg": g.Name, "free_bytes": g.Free, "need_bytes": need}})
}

func roundTo(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
