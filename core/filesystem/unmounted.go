package filesystem

import (
	"path/filepath"
	"slices"
	"strings"
)

// Unmounted returns the point at which the entries have something mounted that would hold path, and nothing is: path is
// on what lies below then. An automount point is no such one, nor is what is mounted only when asked for (noauto).
func Unmounted(entries []FstabEntry, mounts []Mount, path string) (point string, ok bool, err error) {
	on, err := Holding(mounts, path)
	if err != nil {
		return "", false, err
	}
	real := filepath.Join(resolve(path))
	for _, e := range entries {
		if !strings.HasPrefix(e.Point, "/") || slices.Contains(e.Options, "noauto") { // swap has none
			continue
		}
		if _, mounted := At(mounts, filepath.Clean(e.Point)); mounted {
			continue // nor is it looked at: its server may be gone
		}
		at := filepath.Join(resolve(e.Point))
		if under(real, at) && under(at, on.Point) && at != on.Point {
			return e.Point, true, nil
		}
	}
	return "", false, nil
}
