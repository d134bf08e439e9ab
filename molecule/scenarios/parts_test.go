//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

const partsMade = `lvcreate -qqy -Wn -L 64M -n xlog vg00; lvcreate -qqy -Wn -L 320M -n xl vg00
lvcreate -qqy -Wn -L 64M -n ejour vg00; lvcreate -qqy -Wn -L 64M -n ext vg00
mkfs.xfs -q -f -l logdev=/dev/vg00/xlog /dev/vg00/xl
mke2fs -q -F -O journal_dev -b 4096 /dev/vg00/ejour; mkfs.ext4 -q -F -b 4096 -J device=/dev/vg00/ejour /dev/vg00/ext
mkdir -p /srv/xl /srv/ext; mount -o logdev=/dev/vg00/xlog /dev/vg00/xl /srv/xl; mount /dev/vg00/ext /srv/ext
echo before > /srv/xl/file; echo before > /srv/ext/file`

const partsRemoved = `lvm_snapshot name=parts state=absent >/dev/null; umount /srv/xl /srv/ext
lvremove -qqy vg00/xl vg00/xlog vg00/ext vg00/ejour; rmdir /srv/xl /srv/ext; ! lvs vg00/xl 2>/dev/null`

// A file system whose log or journal lies on a volume of its own is taken with it or not at all, is looked at with the
// log's own snapshot, and is whole after a rollback.
func TestLogOnAnotherVolume(t *testing.T) {
	playedOn(t, "d12")
	g := theGuest
	g.scratch(t, partsMade, partsRemoved)
	for words, says := range map[string]string{
		"lvm_snapshot name=parts volumes=/srv/xl,/dat --check":  "its log lies on vg00/xlog, which is not in the set",
		"lvm_snapshot name=parts volumes=/srv/ext":              "its journal lies on vg00/ejour, which is not in the set",
		"lvm_snapshot name=parts volumes=vg00/xlog --check":     "belongs to the file system on /srv/xl",
		"snap_backup volumes=/srv/xl backend_options=path=/srv": "its log lies on vg00/xlog",
	} {
		if r := g.fails(t, words, "unsupported"); !strings.Contains(r.msg(), says) {
			t.Errorf("%s: %q, want %q", words, r.msg(), says)
		}
	}
	g.ok(t, "lvm_snapshot name=parts volumes=/srv/xl,vg00/xlog,/srv/ext,vg00/ejour size=24m")
	g.run(t, "echo after > /srv/xl/file; echo after > /srv/ext/file; sync")
	g.ok(t, "lvm_snapshot name=parts state=mounted")
	seen := g.run(t, `cat /run/rewind/mounts/parts/vg00/*/file | xargs
grep -c logdev=/dev/vg00/xlog_parts /proc/self/mountinfo`)
	if seen != "before before\n1" {
		t.Errorf("the mounted set: %q", seen)
	}
	g.ok(t, "lvm_snapshot name=parts state=unmounted")
	g.ok(t, "lvm_merge name=parts wait=true")
	after := g.run(t, `cat /srv/xl/file /srv/ext/file | xargs; umount /srv/xl /srv/ext
xfs_repair -n -l /dev/vg00/xlog /dev/vg00/xl >/dev/null 2>&1 && e2fsck -fn /dev/vg00/ext >/dev/null 2>&1 && echo whole
mount -o logdev=/dev/vg00/xlog /dev/vg00/xl /srv/xl; mount /dev/vg00/ext /srv/ext`)
	if after != "before before\nwhole" {
		t.Errorf("after the rollback: %q", after)
	}
}
