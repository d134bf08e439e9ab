//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// xfsParts are the mount options of an XFS file system with its log and its real-time device on volumes of their own.
const xfsParts = "logdev=/dev/vg00/xlog,rtdev=/dev/vg00/xrt"

// makeParts makes an XFS file system with its log and its real-time device on other volumes, and an ext4 one with its
// journal on another volume.
const makeParts = `lvcreate -qqy -Wn -L 64M -n xlog vg00; lvcreate -qqy -Wn -L 320M -n xl vg00
lvcreate -qqy -Wn -L 64M -n ejour vg00; lvcreate -qqy -Wn -L 64M -n ext vg00
lvcreate -qqy -Wn -L 64M -n xrt vg00
mkfs.xfs -q -f -m reflink=0 -l logdev=/dev/vg00/xlog -r rtdev=/dev/vg00/xrt /dev/vg00/xl
mke2fs -q -F -O journal_dev -b 4096 /dev/vg00/ejour; mkfs.ext4 -q -F -b 4096 -J device=/dev/vg00/ejour /dev/vg00/ext
mkdir -p /srv/xl /srv/ext; mount -o ` + xfsParts + ` /dev/vg00/xl /srv/xl; mount /dev/vg00/ext /srv/ext
xfs_io -f -c 'chattr +r' /srv/xl/rt; echo before > /srv/xl/rt; mkdir -m 700 /srv/parts
echo before > /srv/xl/file; echo before > /srv/ext/file`

const removeParts = `lvm_snapshot name=restore state=absent >/dev/null; umount /srv/xl /srv/ext
lvremove -qqy vg00/xl vg00/xlog vg00/xrt vg00/ext vg00/ejour; rmdir /srv/xl /srv/ext; rm -rf /srv/parts
rm -rf /var/lib/rewind/jobs
! lvs vg00/xl 2>/dev/null`

// TestLogOnAnotherVolume uses file systems whose log, journal or real-time device is on another volume. A set with the
// file system must have that volume, too. A backup and a restore work on the snapshots of both, so does a mounted set,
// and after a rollback the file systems are consistent.
func TestLogOnAnotherVolume(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeParts, removeParts)
	for words, says := range map[string]string{
		"lvm_snapshot name=parts volumes=/srv/xl,/dat --check":  "its log lies on vg00/xlog, which is not in the set",
		"lvm_snapshot name=parts volumes=/srv/ext":              "its journal lies on vg00/ejour, which is not in the set",
		"lvm_snapshot name=parts volumes=vg00/xlog --check":     "belongs to the file system on /srv/xl",
		"snap_backup volumes=/srv/xl backend_options=path=/srv": "its log lies on vg00/xlog",
	} {
		if r := g.fails(t, words, "unsupported"); !strings.Contains(r.msg(), says) || r.ran("lvcreate") {
			t.Errorf("%s: %s, want %q", words, r, says)
		}
	}
	const volumes, repository = "volumes=/srv/xl,vg00/xlog,vg00/xrt,/srv/ext,vg00/ejour", "backend_options=path=/srv/parts"
	g.ok(t, "snap_backup "+volumes+" "+repository)
	g.run(t, "echo after | tee /srv/xl/file /srv/xl/rt >/srv/ext/file; sync")
	g.ok(t, "snap_backup action=check "+volumes+" "+repository)
	g.ok(t, "snap_backup action=restore "+repository)
	g.ok(t, "lvm_snapshot name=restore state=mounted")
	seen := g.run(t, `cat /run/rewind/mounts/restore/vg00/*/* 2>/dev/null | xargs; cat /srv/xl/* | xargs
grep -c logdev=/dev/vg00/xlog_restore,rtdev=/dev/vg00/xrt_restore /proc/self/mountinfo`)
	if seen != "before before before\nafter after\n1" {
		t.Errorf("the mounted set, the volume, and mounts with its own log: %q", seen)
	}
	g.ok(t, "lvm_snapshot name=restore state=unmounted")
	g.ok(t, "lvm_merge name=restore wait=true")
	after := g.run(t, `cat /srv/xl/file /srv/xl/rt /srv/ext/file | xargs; umount /srv/xl /srv/ext
xfs_repair -n -l /dev/vg00/xlog -r /dev/vg00/xrt /dev/vg00/xl >/dev/null 2>&1 &&
e2fsck -fn /dev/vg00/ext >/dev/null 2>&1 && echo whole
mount -o `+xfsParts+` /dev/vg00/xl /srv/xl; mount /dev/vg00/ext /srv/ext`)
	if after != "before before before\nwhole" {
		t.Errorf("after the rollback: %q", after)
	}
}

// makeStack makes a physical volume of LVM on a logical volume, and a btrfs file system on two volumes.
const makeStack = `for lv in one two; do lvcreate -qqy -Wn -L 128M -n $lv vg00; done
lvcreate -qqy -Wn -L 64M -n pv vg00
sed -i 's/# scan_lvs = 0/scan_lvs = 1/' /etc/lvm/lvm.conf
pvcreate -qqy /dev/vg00/pv; vgcreate -qq vgpv /dev/vg00/pv; lvcreate -qqy -Wn -L 32M -n x vgpv
mkfs.ext4 -q -F /dev/vgpv/x; mkdir -p /srv/x /srv/tree; mount /dev/vgpv/x /srv/x
mkfs.btrfs -q -f /dev/vg00/one /dev/vg00/two; mount /dev/vg00/one /srv/tree`

const removeStack = `umount /srv/x /srv/tree; dmsetup remove joined
lvremove -qqy vgpv/x; vgremove -qqy vgpv; sed -i 's/^\tscan_lvs = 1/\t# scan_lvs = 0/' /etc/lvm/lvm.conf
lvm_snapshot name=stack state=absent >/dev/null; lvremove -qqy vg00/one vg00/two vg00/pv; rmdir /srv/x /srv/tree
! lvs vg00/one 2>/dev/null`

// TestDevicesMadeOfVolumes uses devices that are made of several volumes. A set must have all of these volumes. A
// volume that is a physical volume of LVM is refused before anything is suspended, also if all that is on it is in the
// set.
func TestDevicesMadeOfVolumes(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeStack, removeStack)
	refused := func(volumes, says string) {
		t.Helper()
		if r := g.fails(t, "lvm_snapshot name=stack volumes="+volumes, "unsupported"); !strings.Contains(r.msg(), says) {
			t.Errorf("%s: %q, want %q", volumes, r.msg(), says)
		}
	}
	refused("/srv/x,vg00/pv", "vg00/pv is a physical volume of LVM: vgpv/x lies on it")
	refused("vg00/pv", "vg00/pv is a physical volume of LVM")
	refused("/srv/tree", "is btrfs")
	refused("vg00/one,vg00/two", "is btrfs")
	g.run(t, `umount /srv/tree; wipefs -qa /dev/vg00/one /dev/vg00/two
n=$(blockdev --getsz /dev/vg00/one)
printf '0 %s linear /dev/vg00/one 0\n%s %s linear /dev/vg00/two 0\n' $n $n $n | dmsetup create joined
mkfs.ext4 -q -F /dev/mapper/joined; mount /dev/mapper/joined /srv/tree; echo old >/srv/tree/file; sync`)
	refused("vg00/one,/dat", "joined is made of it and of vg00/two, which is not in the set")
	g.ok(t, "lvm_snapshot name=stack volumes=vg00/one,vg00/two size=32m")
	if r := g.fails(t, "lvm_merge name=stack", "busy"); !strings.Contains(r.msg(), "joined") {
		t.Errorf("lvm_merge below a device that is in use: %q", r.msg())
	}
	g.run(t, "echo new >/srv/tree/file; umount /srv/tree; dmsetup remove joined")
}
