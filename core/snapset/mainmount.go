package snapset

import (
	"slices"

	"go.pcc.com/rewind/core/filesystem"
)

// mainMountFirst moves a volume's main mount to the front. Its mount point is the volume's name in a backup, and its
// options are those that the mounts of snapshots begin with. It is the mount that the user named; else one of the whole
// file system, preferably one that fstab lists. The order of the kernel's table does not tell: it has a bind mount
// first if the mount that it was made from has been unmounted and mounted again since.
func mainMountFirst(mounts []filesystem.Mount, name string) []filesystem.Mount {
	if len(mounts) < 2 {
		return mounts
	}
	fstab, _ := filesystem.Fstab(fstabFile) // an unreadable fstab is reported where its content matters
	listed := filesystem.FstabPoints(fstab, mounts[0].Dev)
	rank := func(m filesystem.Mount) int {
		switch {
		case m.Point == name:
			return 3
		case m.Root != "/":
			return 0
		case slices.Contains(listed, m.Point):
			return 2
		}
		return 1
	}
	best := 0
	for i := range mounts {
		if rank(mounts[i]) > rank(mounts[best]) {
			best = i
		}
	}
	first := mounts[best]
	copy(mounts[1:best+1], mounts[:best])
	mounts[0] = first
	return mounts
}

// mainMount returns the main mount of a volume (see mainMountFirst); an empty one if it is not mounted.
func (v *View) mainMount(vg, name string) filesystem.Mount {
	lv, ok := v.Report.Volume(vg, name)
	if !ok {
		return filesystem.Mount{}
	}
	if mounts := mainMountFirst(filesystem.On(v.Mounts, devOf(lv)), ""); len(mounts) > 0 {
		return mounts[0]
	}
	return filesystem.Mount{}
}
