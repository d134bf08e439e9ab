package run

import (
	"slices"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/filesystem"
)

// dataTypes are types of file systems that hold data, although the source of their mounts is no device of this server.
var dataTypes = []string{
	"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "virtiofs", "zfs", "fuse.sshfs",
}

// unstoredWarning warns of the file systems that are mounted below a root and are no roots themselves. What they hold
// is not in the backup, and whoever named /dat before a volume was mounted at /dat/archive would miss it only when it
// is needed. members has the devices of the volumes that are stored: a second mount of one of these lacks nothing.
func unstoredWarning(
	mounts []filesystem.Mount, roots []string, members map[filesystem.Dev]string,
) []string {
	var points []string
	for _, m := range mounts {
		isAbove := func(root string) bool { return strings.HasPrefix(m.Point, strings.TrimSuffix(root, "/")+"/") }
		if _, stored := members[m.Dev]; stored || !holdsData(m) || slices.Contains(roots, m.Point) ||
			!slices.ContainsFunc(roots, isAbove) || slices.Contains(points, m.Point) {
			continue
		}
		points = append(points, m.Point)
	}
	slices.Sort(points)
	return backup.NotStoredWarning("mounted", points)
}

// holdsData reports whether a mount shows data that somebody may want to have in a backup: not what the kernel makes up
// or keeps in memory, nor an image that is only read.
func holdsData(m filesystem.Mount) bool {
	if m.Type == "squashfs" || m.Type == "iso9660" || m.Type == "devtmpfs" {
		return false
	}
	return strings.HasPrefix(m.Source, "/dev/") || slices.Contains(dataTypes, m.Type)
}
