package snapset

import (
	"slices"

	"go.pcc.com/rewind/core/filesystem"
)

// foremost puts the mount first that speaks for the volume, and by which a backup knows it: the one that was named; or
// one of the whole file system, before others that of fstab. Which one the kernel's table has first says nothing: it is
// a bind mount, where the mount that was bound has been made anew since.
func foremost(mounts []filesystem.Mount, word string) []filesystem.Mount {
	if len(mounts) < 2 {
		return mounts
	}
	fstab, _ := filesystem.Fstab(fstabFile) // where it counts what it says, one that cannot be read is an error
	listed := filesystem.FstabPoints(fstab, mounts[0].Dev)
	rank := func(m filesystem.Mount) int {
		switch {
		case m.Point == word:
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
