package run

import (
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
)

func TestFileSystemBelowRootIsNotStoredSilently(t *testing.T) {
	member := filesystem.Dev{Major: 253}
	at := func(point, kind, source string, dev filesystem.Dev) filesystem.Mount {
		return filesystem.Mount{Point: point, Type: kind, Source: source, Dev: dev}
	}
	mounts := []filesystem.Mount{
		at("/", "ext4", "/dev/vda", filesystem.Dev{Major: 8}), at("/dat", "xfs", "/dev/mapper/vg00-dat", member),
		at("/dat/again", "xfs", "/dev/mapper/vg00-dat", member), at("/dat/tmp", "tmpfs", "tmpfs", filesystem.Dev{Minor: 1}),
		at("/dat/wal", "xfs", "/dev/mapper/vg00-wal", filesystem.Dev{Major: 253, Minor: 1}),
		at("/dat/archive", "ext4", "/dev/sdb", filesystem.Dev{Major: 9}),
		at("/dat/archive", "ext4", "/dev/sdb", filesystem.Dev{Major: 9}),
		at("/dat/nfs", "nfs4", "nas:/x", filesystem.Dev{Minor: 2}), at("/database", "ext4", "/dev/sdc", filesystem.Dev{}),
		at("/dat/auto", "autofs", "systemd-1", filesystem.Dev{Minor: 3}),
	}
	members := map[filesystem.Dev]string{member: "vg00/dat"}
	for _, c := range []struct {
		roots []string
		want  string
	}{
		{[]string{"/dat", "/dat/wal"}, ": /dat/archive, /dat/nfs;"},
		{[]string{"/dat"}, ": /dat/archive, /dat/nfs, /dat/wal;"},
		{[]string{"/"}, ": /dat/archive, /dat/nfs, /dat/wal, /database;"},
		{[]string{"/dat/wal", "/srv"}, ""},
	} {
		got := unstoredWarning(mounts, c.roots, members)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%q: %q", c.roots, got)
		}
	}
	many := slices.Repeat(mounts[5:6], 13)
	for i := range many {
		many[i].Point += strings.Repeat("x", i)
	}
	if got := unstoredWarning(many, []string{"/dat"}, nil); len(got) != 1 || !strings.Contains(got[0], " and 3 more;") {
		t.Errorf("%q", got)
	}
}
