package filesystem

import (
	"path/filepath"
	"slices"
	"strings"
)

// MountedAtBoot returns the entries without noauto. Those with it are mounted only on request.
func MountedAtBoot(entries []FstabEntry) []FstabEntry {
	onRequest := func(e FstabEntry) bool { return slices.Contains(e.Options, "noauto") }
	return slices.DeleteFunc(slices.Clone(entries), onRequest)
}

// Unmounted returns the mount point at which an fstab entry would mount a file system that holds path, although nothing
// is mounted there now: path is then on the file system below that mount point. An automount point counts as mounted.
// It returns false if there is no such mount point. Fault: not_found if no mount holds path.
func Unmounted(entries []FstabEntry, mounts []Mount, path string) (point string, ok bool, err error) {
	on, err := Holding(mounts, path)
	if err != nil {
		return "", false, err
	}
	realPath := Resolve(path)
	for _, e := range entries {
		if !strings.HasPrefix(e.Point, "/") { // swap has no mount point
			continue
		}
		if _, mounted := At(mounts, filepath.Clean(e.Point)); mounted {
			continue // the path is not resolved, which might wait for a file server
		}
		realPoint := Resolve(e.Point)
		if isUnder(realPath, realPoint) && isUnder(realPoint, on.Point) && realPoint != on.Point {
			return e.Point, true, nil
		}
	}
	return "", false, nil
}
