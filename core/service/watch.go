package service

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
)

// Watching returns the active path units that watch something at or below one of the mount points. An unmount ends
// their watches: systemd takes that for a change and starts what the unit triggers while the directory is empty, and no
// later mount makes the unit watch again. Protected units are left out, and so is what is below "/", which is not
// unmounted while the server runs.
func (s *Systemd) Watching(ctx context.Context, points []string) ([]string, error) {
	paths, err := s.matching(ctx, "*.path")
	if err != nil {
		return nil, err
	}
	var watching []string
	for _, u := range paths {
		if u.isDown() || s.Protected(u.name) {
			continue
		}
		watched, err := s.bus.Property(ctx, u.name, "Path", "Paths")
		if err != nil {
			return nil, busFault(ctx, err, "ask systemd about %s", u.name)
		}
		all, _ := watched.([]any)
		for _, one := range all {
			pair, _ := one.([]any) // the kind of the watch, such as PathChanged, and the path
			if len(pair) != 2 {
				continue
			}
			if path, _ := pair[1].(string); isBelowAny(path, points) {
				watching = append(watching, u.name)
				break
			}
		}
	}
	return watching, nil
}

// isBelowAny reports whether a path is one of the mount points or lies below one, by its name or by where symbolic
// links lead. Of a path that does not exist, or is a pattern, as much is followed as exists. Nothing counts as below
// "/".
func isBelowAny(path string, points []string) bool {
	real, err := path, error(nil)
	for dir := path; ; dir = filepath.Dir(dir) {
		if real, err = filepath.EvalSymlinks(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
	}
	return slices.ContainsFunc(points, func(point string) bool {
		below := filepath.Clean(point) + "/"
		return point != "/" && (strings.HasPrefix(path+"/", below) || strings.HasPrefix(real+"/", below))
	})
}
