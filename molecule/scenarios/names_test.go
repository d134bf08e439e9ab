//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeNames makes volumes whose names and mounts are easily mistaken for each other, and a snapshot, made by hand, that
// has the name that a member of the set "night" would have.
const makeNames = `
lvcreate -qqy -L 32M -n app vg00; lvcreate -qqy -L 32M -n app vg01; lvcreate -qqy -L 32M -n a-b.c vg01
for d in vg00/app vg01/app vg01/a-b.c; do mkfs.ext4 -q /dev/$d; done
mkdir -p /srv/app0 /srv/app1 '/srv/a b' /srv/again /srv/part
udevadm settle
mount UUID=$(blkid -s UUID -o value /dev/vg00/app) /srv/app0
mount /dev/mapper/vg01-app /srv/app1
mount -o noatime /dev/vg01/a-b.c '/srv/a b'
mount --bind '/srv/a b' /srv/again
for d in /srv/app0 /srv/app1 '/srv/a b'; do echo old > "$d/file"; done
sync; lvcreate -qqy -L 8M -s -n app_night vg00/app 2>/dev/null
`

const removeNames = `
lvm_snapshot name=night state=absent >/dev/null 2>&1
umount /srv/part /srv/again '/srv/a b' /srv/app0 /srv/app1 2>/dev/null
lvremove -qqy vg00/app_night vg00/app vg01/app vg01/application vg01/a-b.c 2>/dev/null
rmdir /srv/app0 /srv/app1 '/srv/a b' /srv/again /srv/part
! lvs --noheadings vg01 | grep .
`

// TestNamesAreNotMistaken takes sets of these volumes, rolls back to them, and checks that none was mistaken for
// another.
func TestNamesAreNotMistaken(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeNames, removeNames)
	calls := g.callEach(t,
		"lvm_snapshot name=night volumes=/srv/app0 size=8m",
		"lvm_merge name=night",
		"lvm_snapshot name=night state=absent",
		"lvm_snapshot name=dusk volumes=/srv/app0,/dev/mapper/vg01-app,vg01/a-b.c size=8m",
	)
	if r := calls[0]; r.code() != "exists" || !strings.Contains(r.msg(), "vg00/app_night") {
		t.Errorf("a hand-made snapshot with a set's name was not told apart: %s", r)
	}
	if r := calls[1]; r.code() != "not_found" || !strings.Contains(r.hint(), "snapshots=vg00/app_night") {
		t.Errorf("a hand-made snapshot with a set's name was taken for the set: %s", r)
	}
	if r := calls[2]; r.failed() || r["changed"] != false {
		t.Errorf("a set that does not exist was removed: %s", r)
	}
	if r := calls[3]; r.failed() || len(r.rows("snapshots")) != 3 {
		t.Fatalf("want a set of three: %s", r)
	}
	g.run(t, `for d in /srv/app0 /srv/app1 '/srv/a b'; do echo new > "$d/file"; done; sync
lvrename -qq vg01/app vg01/application; mount --bind /srv/app1/lost+found /srv/part`)
	r := g.fails(t, "lvm_merge name=dusk", "busy")
	if !hasRow(r.rows("holders"), map[string]any{"kind": "mount", "how": "bind", "path": "/srv/part"}) {
		t.Errorf("the bind mount is not named: %s", r)
	}
	g.run(t, "umount /srv/part")
	r = g.ok(t, "lvm_merge name=dusk wait=true")
	for _, volume := range []string{"vg00/app", "vg01/application", "vg01/a-b.c"} {
		if !hasRow(r.rows("volumes"), map[string]any{"volume": volume, "state": "merged"}) {
			t.Errorf("%s is not among the merged: %s", volume, r)
		}
	}
	got := g.run(t, `cat /srv/app0/file /srv/app1/file '/srv/a b/file' /srv/again/file | tr '\n' ' '
findmnt -no OPTIONS '/srv/a b' | grep -o noatime
findmnt -no SOURCE /srv/app1
lvs --noheadings -o lv_name,origin,lv_attr vg00/app_night | awk '{print $1, $2, substr($3, 1, 5)}'
mount -o ro /dev/vg00/app_night /srv/part; cat /srv/part/file; umount /srv/part`)
	want := "old old old old noatime\n/dev/mapper/vg01-application\napp_night app swi-a\nold"
	if got != want {
		t.Errorf("after the rollback:\n%s\nwant:\n%s", got, want)
	}
	t.Log("one volume name in two groups, - and . in names, a space in a mount point, a volume renamed after its " +
		"snapshot, mounts by UUID, by device and twice: each volume was rolled back to its own snapshot, and a " +
		"hand-made snapshot with a set's name was left alone")
}
