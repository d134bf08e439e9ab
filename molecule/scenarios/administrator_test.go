//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// makeAdminVolumes makes and mounts two volumes in vg01, one of them with a snapshot that LVM alone has made, and
// configures LVM so that dmeventd extends a snapshot that is more than half full.
const makeAdminVolumes = `lvcreate -qqy -Wn -L 320M -n one vg01; lvcreate -qqy -Wn -L 96M -n two vg01
mkfs.xfs -q -f /dev/vg01/one; mkfs.ext4 -q -F /dev/vg01/two
mkdir -p /srv/one /srv/two; mount /dev/vg01/one /srv/one; mount /dev/vg01/two /srv/two
echo old | tee /srv/one/file >/srv/two/file; sync
cp /etc/lvm/lvm.conf /root/lvm.conf.before
printf 'activation { monitoring=1 snapshot_autoextend_threshold=50 snapshot_autoextend_percent=50 }\n' \
>>/etc/lvm/lvm.conf
systemctl restart dm-event.service
lvcreate -qqy -L 32M -s -n two_hand vg01/two
echo new | tee /srv/one/file >/srv/two/file; sync`

const removeAdminVolumes = `rm -f /run/rewind/failpoint
systemctl stop admin-lvs admin-lvcreate admin-lvextend 2>/dev/null
lvm_snapshot state=absent >/dev/null; umount /srv/one /srv/two; lvremove -qqy vg01; rmdir /srv/one /srv/two
cp /root/lvm.conf.before /etc/lvm/lvm.conf; rm /root/lvm.conf.before; systemctl restart dm-event.service`

// deviceLinks is a script that prints the names under /dev of the volumes of vg01, each with its device-mapper device,
// and the properties that udev has of the snapshots. It leaves out UUIDs, counters, and whether udev's last event was
// an activation.
const deviceLinks = `udevadm settle; for l in $(ls -d /dev/vg01/* /dev/disk/by-*/* | grep -v by-diskseq); do
d=$(dmsetup info -c --noheadings -o name $l 2>/dev/null); case $d in vg01*) echo $l $d;; esac; done |
sed 's/LVM-[^ ]*/LVM-UUID/' | sort
for s in one two; do udevadm info -q property /dev/vg01/${s}_snap | grep -E '^(ID_FS|DM)_' |
grep -v DM_ACTIVATION= | sed 's/LVM-.*/LVM-UUID/' | sort; done`

// startAdminCommands is a script that starts three commands of LVM in units of their own, as an administrator would at
// another terminal.
const startAdminCommands = `run() { systemd-run -q --unit=admin-$1 -p RemainAfterExit=yes "$@"; }
run lvs -a vg01; run lvcreate -qqy -Wn -L 8M -n admin vg01; run lvextend -qq -L +4M vg01/two_hand`

// adminCommandsWait is a shell condition: all three commands wait for the volume group's lock.
const adminCommandsWait = `test $(grep -c -- '-> FLOCK' /proc/locks) = 3`

// adminCommandsSucceeded is a shell condition: all three commands have ended without an error.
const adminCommandsSucceeded = `for c in lvs lvcreate lvextend; do
test "$(systemctl show -P Result -P SubState admin-$c | xargs)" = "success exited" || exit 1; done`

const removeAdminCommands = `systemctl stop admin-lvs admin-lvcreate admin-lvextend; lvremove -qqy vg01/admin`

// TestAdministratorMeanwhile runs commands of LVM, and has dmeventd at work, while a set is prepared and while its
// origins are suspended. One of its volumes also has a snapshot that does not belong to the set. Afterwards the set's
// snapshots are to LVM, udev and dmeventd as if LVM alone had made them.
func TestAdministratorMeanwhile(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeAdminVolumes, removeAdminVolumes)
	const take = "lvm_snapshot volumes=/srv/one,/srv/two size=16m freeze_timeout=200"
	g.run(t, "lvcreate -qqy -L 16M -s -n one_snap vg01/one; lvcreate -qqy -L 16M -s -n two_snap vg01/two")
	byHand := g.run(t, deviceLinks)
	g.run(t, "lvremove -qqy vg01/one_snap vg01/two_snap")
	dmeventd := "journalctl -b --since=@" + g.run(t, "date +%s") + " -t dmeventd -q --no-pager -o cat | "
	places := []string{"snapset.prepared", "instant.held"}
	for i, place := range places {
		if i+1 < len(places) && !*torture {
			continue
		}
		c := g.start(t, withFailpoint(place+" hang")+take)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, startAdminCommands)
		g.eventually(t, "all three commands waiting for the lock", adminCommandsWait, time.Minute)
		if place == "snapset.prepared" {
			g.eventually(t, "dmeventd's look at a snapshot that is not live", dmeventd+"grep -q 'Target zero'", time.Minute)
		}
		g.run(t, releaseFailpoint)
		if r := c.result(t); r.failed() {
			t.Fatalf("with commands that waited: %s", r)
		}
		g.eventually(t, "the end of the three commands", adminCommandsSucceeded, time.Minute)
		g.run(t, removeAdminCommands)
		if now := g.run(t, deviceLinks); now != byHand {
			t.Errorf("%s: names under /dev of a set made by LVM alone:\n%s\nand of this one:\n%s", place, byHand, now)
		}
		if i+1 < len(places) {
			g.ok(t, "lvm_snapshot state=absent")
		}
	}
	// dmeventd writes this once for each time that it looks at the snapshot, and goes on.
	if said := g.run(t, dmeventd+"sort -u | grep -vE 'onitoring snapshot|Target zero is not snapshot'; true"); said != "" {
		t.Errorf("dmeventd says:\n%s", said)
	}
	g.checkLVMHandlesSet(t)
}

// checkLVMHandlesSet does with the set's snapshots what an administrator may do with LVM, and fails the test if the
// result is not what it would be with snapshots that LVM alone has made.
func (g guest) checkLVMHandlesSet(t *testing.T) {
	t.Helper()
	const state = "lvs --noheadings -o lv_name,lv_attr,seg_monitor vg01 | sort -u | xargs"
	if got := g.run(t, state); got != "one owi-aos--- one_snap swi-a-s--- monitored two owi-aos--- "+
		"two_hand swi-a-s--- monitored two_snap swi-a-s--- monitored" {
		t.Errorf("LVM says %s", got)
	}
	g.run(t, "vgck vg01")
	before := g.run(t, "dmsetup table | grep ^vg01 | sort")
	g.run(t, "lvchange --refresh vg01/one vg01/two")
	if now := g.run(t, "dmsetup table | grep ^vg01 | sort"); now != before {
		t.Errorf("tables before lvchange --refresh:\n%s\nand afterwards:\n%s", before, now)
	}
	g.run(t, `set -e; echo newer | tee /srv/one/file >/srv/two/file; lvextend -qq -L +8M vg01/one_snap
lvcreate -qqy -L 16M -s -n two_later vg01/two; echo newest | tee /srv/one/file >/srv/two/file; sync
dd if=/dev/urandom of=/srv/two/bulk bs=1M count=12 conv=fsync status=none`)
	// dmeventd suspends the origin while it extends a snapshot, and a suspended device cannot be mounted below.
	g.eventually(t, "the extension of all that is more than half full, by dmeventd",
		"lvs --noheadings --units m -o lv_size vg01/two_snap | grep -v 16.00m && "+
			"! lvs --noheadings -S 'snap_percent>50' vg01 | grep .", 2*time.Minute)
	g.run(t, "set -e; umount /srv/one /srv/two; vgchange -qq -an vg01; vgchange -qq -ay vg01")
	const holds = `set -e; udevadm settle; for v in one two one_snap two_hand two_snap two_later; do
case $v in one*) o=ro,nouuid check="xfs_repair -n";; *) o=ro check="e2fsck -fn";; esac
mount -o $o /dev/vg01/$v /mnt; echo $v $(cat /mnt/file); umount /mnt
$check /dev/vg01/$v >/run/checked 2>&1 || { cat /run/checked; exit 1; }; done
mount /dev/vg01/one /srv/one; mount /dev/vg01/two /srv/two`
	got := strings.ReplaceAll(g.run(t, holds), "\n", ", ")
	if got != "one newest, two newest, one_snap new, two_hand old, two_snap new, two_later newer" {
		t.Errorf("after the group was closed and opened again: %s", got)
	}
	t.Logf("three commands of LVM waited for the lock and succeeded; dmeventd reported no fault, and extended a snapshot "+
		"of the set when it was half full; vgck, --refresh, lvextend, another snapshot, vgchange: %s", got)
}

// TestAnAdministratorsDataDoNotGoWithASet renames a thin snapshot of a set to its origin's name and mounts it in its
// place, and takes a thick snapshot of another snapshot of the set. The removal of the set is refused because of both.
func TestAnAdministratorsDataDoNotGoWithASet(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeThinPair+"\necho kept >/one/file; sync", "lvm_snapshot state=absent >/dev/null; "+removeThinPair)
	id, _ := g.ok(t, "lvm_snapshot volumes=/one,/two consistency=volume")["id"].(string)
	g.run(t, `set -e; umount /one; lvrename -qq vg01/one vg01/one_old; lvrename -qq vg01/one_snap vg01/one
mount -o nouuid /dev/vg01/one /one; lvcreate -qqy -s -L 16M -n mine vg01/two_snap`)
	before := g.run(t, "lvs --noheadings -o lv_name,lv_tags vg01; findmnt -no SOURCE /one")
	for _, words := range []string{"lvm_snapshot state=absent --check", "lvm_snapshot state=absent"} {
		r := g.module(t, words)
		if !r.failed() || !strings.Contains(r.msg(), "vg01/one was renamed") || !strings.Contains(r.msg(), "vg01/mine") {
			t.Errorf("%s: %v", words, r)
		}
	}
	if now := g.run(t, "lvs --noheadings -o lv_name,lv_tags vg01; findmnt -no SOURCE /one"); now != before {
		t.Errorf("before:\n%s\nand now:\n%s", before, now)
	}
	g.run(t, "lvremove -qqy vg01/mine; lvchange -qq --deltag rewind:id="+id+" vg01/one")
	g.ok(t, "lvm_snapshot state=absent")
	if got := g.run(t, "cat /one/file; lvs --noheadings -o lv_name vg01/two_snap 2>/dev/null; true"); got != "kept" {
		t.Errorf("after the hints were followed: %q", got)
	}
}
