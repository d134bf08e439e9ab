package access

import (
	"context"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// unmountedDir is the directory in which the backend sees volumes without a mount point of their own, each at
// GROUP/VOLUME. That path is also the volume's root in the backup.
const unmountedDir = journey.RuntimeDir + "/backup"

// Root returns the path at which the backend sees a volume, which is also the volume's root in the backup. That is the
// mount point of the volume, or the automount point at which systemd would mount it. For a volume without either, and
// for the root file system, it is a path below /run/rewind/backup.
func Root(t *snapset.Target) string {
	if len(t.Mounts) > 0 && t.Mounts[0].Point != "/" {
		return t.Mounts[0].Point
	}
	if t.Automount != "" {
		return t.Automount
	}
	return filepath.Join(unmountedDir, t.LV.VG, t.LV.Name)
}

// RootsOf returns the roots that these volumes have in a backup. A directory that is read live is its own root.
func RootsOf(ctx context.Context, r command.Runner, volumes []Volume) ([]string, error) {
	snapshots, live := Split(volumes)
	if len(snapshots) == 0 {
		return live, nil
	}
	targets, err := snapset.Resolve(ctx, r, snapshots)
	return append(Roots(targets), live...), err
}

// VolumesOfRoots returns the volumes that were stored with these roots.
func VolumesOfRoots(roots []string) []snapset.Volume {
	var out []snapset.Volume
	for _, root := range roots {
		if name, ok := strings.CutPrefix(root, unmountedDir+"/"); ok {
			root = name
		}
		out = append(out, snapset.Volume{Name: root})
	}
	return out
}

// Roots returns the roots that the targets have in a backup. A volume that is part of another one, such as its log, has
// none.
func Roots(targets []snapset.Target) []string {
	var out []string
	for i := range targets {
		if !snapset.IsPart(&targets[i], targets) {
			out = append(out, Root(&targets[i]))
		}
	}
	return out
}

// Members returns the names of the targets' volumes (VG/LV), by the device of their file system.
func Members(targets []snapset.Target) map[filesystem.Dev]string {
	members := map[filesystem.Dev]string{}
	for _, t := range targets {
		members[t.FS] = t.LV.FullName()
	}
	return members
}
