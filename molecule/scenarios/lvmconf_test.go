//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// writeLVMLocal writes a text into /etc/lvm/lvmlocal.conf, which overrides lvm.conf, until the test ends.
func (g guest) writeLVMLocal(t *testing.T, text string) {
	t.Helper()
	const file = "/etc/lvm/lvmlocal.conf"
	g.run(t, "cp -n "+file+" /root/lvmlocal.conf; printf '%s\\n' "+quote(text)+" > "+file)
	t.Cleanup(func() { g.run(t, "cp /root/lvmlocal.conf "+file) })
}

// hostileConf is an lvm.conf(5) of an administrator who does not know that Rewind reads LVM's output. With prefixes LVM
// 2.03.16 prints no JSON, with a log report the errors are not on stderr, without udev_sync lvcreate fails, and with
// read_only_volume_list lvcreate does not clear the COW space.
const hostileConf = `report { prefixes=1 quoted=0 headings=0 aligned=0 buffered=0 separator=";" list_item_separator=";"
 time_format="%Y" compact_output=1 mark_hidden_devices=0 columns_as_rows=1 binary_values_as_numeric=0
 output_format="basic" lvs_sort="nosuch" lvs_sort_full="nosuch" }
log { verbose=3 level=7 silent=1 indent=0 prefix="LVM! " command_names=1 report_command_log=1 file="/var/log/lvm2.log" }
global { units="h" si_unit_consistency=0 suffix=1 umask=63 test=1 activation=0 use_lvmpolld=0 }
backup { backup=0 archive=0 }
activation { udev_sync=0 monitoring=0 auto_set_activation_skip=1 read_only_volume_list=["vg00"] polling_interval=1 }
metadata { record_lvs_history=1 }
unknown { key=1 }`

// TestAnyLVMConf takes a set, lists it, extends it and rolls back to it with hostileConf: an administrator's lvm.conf
// changes neither what the programs read nor what they do.
func TestAnyLVMConf(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "lvcreate -qqy -L 100M -T vg01/pool 2>/dev/null; lvcreate -qqy -V 64M -T vg01/pool -n thin 2>/dev/null",
		"lvm_snapshot state=absent >/dev/null; lvremove -qqy vg01/pool")
	g.writeLVMLocal(t, hostileConf)
	g.run(t, "echo before > /pccehr/lvmconf")
	g.ok(t, "lvm_snapshot volumes=/dat,/pccehr,vg01/thin")
	g.run(t, "echo after > /pccehr/lvmconf")
	if info := g.ok(t, "lvm_snapshot_info"); len(info["sets"].([]any)) != 1 {
		t.Errorf("not one set: %v", info)
	}
	g.ok(t, "lvm_snapshot volumes=/dat,/pccehr,vg01/thin size=200m") // it finds that the snapshots have become larger
	g.ok(t, "lvm_merge services=pccehr,postgresql wait=true")
	if said := g.run(t, "cat /pccehr/lvmconf; "+allActive); said != "before" {
		t.Errorf("after the rollback: %q", said)
	}
	t.Log("a set was taken, extended and rolled back under an lvm.conf that changes all that LVM prints")
}

// TestThinSnapshotsThatMayNotBeActivated has a volume_list with the origins alone. lvchange then succeeds without
// activating the snapshots.
func TestThinSnapshotsThatMayNotBeActivated(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeThinPair, removeThinPair)
	g.writeLVMLocal(t, `activation { volume_list=["vg00","vg01/one","vg01/two","vg01/pool"] }`)
	for _, volumes := range []string{"/one,/two", "/one"} {
		r := g.fails(t, "lvm_snapshot volumes="+volumes, "unsupported")
		if hint, _ := r["hint"].(string); !strings.Contains(r.msg(), "vg01/one_snap") ||
			!strings.Contains(hint, "activation/volume_list") {
			t.Errorf("the message is %q, the hint %q", r.msg(), hint)
		}
		g.checkNothingLeft(t)
	}
	if left := g.run(t, "lvs --noheadings -o lv_name vg01 | sort | xargs; touch /one/goes-on /two/goes-on"); left !=
		"one pool two" {
		t.Errorf("left behind: %q", left)
	}
}

// TestLVMSaysWhy has LVM refuse to make a snapshot, because its configuration forbids it or because LVM cannot write.
// The message begins with LVM's own words, there is a code and a hint, and nothing is left behind.
func TestLVMSaysWhy(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	full := "mkdir -p /run/full && mount -t tmpfs -o size=8k none /run/full && mkdir /run/full/archive && " +
		"{ dd if=/dev/zero of=/run/full/f bs=4k status=none; mount --bind /run/full/archive /etc/lvm/archive; } 2>/dev/null"
	copied := "truncate -s 3G /var/tmp/copy && " +
		"dd if=/dev/loop1 of=/var/tmp/copy bs=1M count=2 conv=notrunc status=none && " +
		"losetup /dev/loop9 /var/tmp/copy && udevadm settle"
	for _, tt := range []struct{ name, conf, before, after, code, says, hint string }{
		{
			"the snapshots may not be activated", `activation { volume_list=["vg00/dat"] }`, "", "",
			"unsupported", "not active locally (volume_list activation filter?)", "activation/volume_list",
		},
		{
			"only volumes of this host's tag may be activated", "tags { hosttags=1 }", "", "",
			"unsupported", "not active locally", "host tags",
		},
		{
			"the disks are being emptied", "",
			"pvchange -qq -xn /dev/loop0 /dev/loop1", "pvchange -qq -xy /dev/loop0 /dev/loop1",
			"no_space", "volume group vg00 has 0 B free (not on /dev/loop0 /dev/loop1: pvchange -xn)", "extend the group",
		},
		{
			"the archive is full", "", full, "umount /etc/lvm/archive /run/full",
			"unwritable", "No space left on device", "/etc/lvm/archive",
		},
		{
			"the archive is read-only", "",
			"mount --bind /etc/lvm/archive /etc/lvm/archive && mount -o remount,ro,bind /etc/lvm/archive",
			"umount /etc/lvm/archive", "unwritable", "read-only filesystem", "/etc/lvm/archive",
		},
		{
			"a disk is there twice", "", copied, "losetup -d /dev/loop9; rm /var/tmp/copy; udevadm settle",
			"unsupported", "duplicate PV devices", "devices/filter",
		},
		{
			"the devices file lacks a disk", "devices { use_devicesfile=1 }", "lvm lvmdevices --adddev /dev/loop0",
			"rm -f /etc/lvm/devices/system.devices", "unsupported", "missing physical volumes", "lvmdevices --adddev",
		},
		{
			"LVM may not look at the disk", `devices { filter=["r|loop|"] }`, "", "", "unsupported", "", "devices/filter",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.conf != "" {
				g.writeLVMLocal(t, tt.conf)
			}
			if tt.before != "" {
				g.run(t, tt.before)
				t.Cleanup(func() { g.run(t, tt.after) })
			}
			r := g.fails(t, "lvm_snapshot volumes=/pccehr", tt.code)
			if hint, _ := r["hint"].(string); !strings.Contains(r.msg(), tt.says) || !strings.Contains(hint, tt.hint) {
				t.Errorf("the message is %q, the hint %q", r.msg(), hint)
			}
		})
	}
	if left := g.run(t, "lvs --noheadings -o lv_name vg00 | sort | xargs; touch /pccehr/goes-on"); left != "dat pccehr" {
		t.Errorf("left behind: %q", left)
	}
}

// TestSaidBeforehand checks warnings and refusals of what would go wrong later, and that the message of a failed mount
// has the kernel's reason.
func TestSaidBeforehand(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, `cp /etc/fstab /root/fstab.before; cp /usr/local/bin/lvm_merge /pccehr/
uuid=$(blkid -o value -s UUID /dev/vg00/pccehr)
sed -i "s|^[^#]*[[:space:]]/pccehr[[:space:]]|UUID=$uuid /pccehr |" /etc/fstab`,
		`cp /root/fstab.before /etc/fstab; rm -f /root/fstab.before /pccehr/lvm_merge; lvm_snapshot state=absent >/dev/null`)
	taken := g.ok(t, "lvm_snapshot volumes=/pccehr")
	if said := fmt.Sprint(taken["warnings"]); !strings.Contains(said, "/etc/fstab mounts /pccehr by UUID=") {
		t.Errorf("warnings of the set: %s", said)
	}
	r := g.fails(t, "/pccehr/lvm_merge services=pccehr --check", "busy")
	if hint, _ := r["hint"].(string); !strings.Contains(hint, "/pccehr/lvm_merge, lies on a volume") {
		t.Errorf("a program that lies on the volume: %q (%q)", r.msg(), hint)
	}
	// The block number of the first inode table becomes invalid. The kernel's log says so, mount(8) does not.
	g.run(t, "dd if=/dev/zero of=/dev/vg00/pccehr_snap bs=4096 seek=1 count=1 oflag=direct status=none")
	r = g.fails(t, "lvm_snapshot state=mounted", "mount_failed")
	if hint, _ := r["hint"].(string); !strings.Contains(r.msg(), "the kernel: EXT4-fs (dm-") || hint == "" {
		t.Errorf("a mount that fails: %q (%q)", r.msg(), hint)
	}
}

// TestLVMsCopiesOnAMember takes a set, with a thin volume in it, while LVM keeps the copies of its metadata on a
// member. That works, because no LVM command runs while the members are suspended.
func TestLVMsCopiesOnAMember(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, `lvcreate -qqy -L 100M -T vg01/pool 2>/dev/null; lvcreate -qqy -V 64M -T vg01/pool -n thin 2>/dev/null
mkfs.ext4 -q /dev/vg01/thin; mkdir -p /srv/thin /pccehr/archive; mount /dev/vg01/thin /srv/thin`,
		`lvm_snapshot name=copies state=absent >/dev/null; umount /srv/thin; lvremove -qqy vg01/thin vg01/pool
rm -r /srv/thin /pccehr/archive; ! lvs --noheadings vg01 | grep .`)
	g.writeLVMLocal(t, `backup { archive_dir="/pccehr/archive" }`)
	r := g.ok(t, "lvm_snapshot name=copies volumes=/pccehr,/srv/thin size=32m")
	if copies := g.run(t, "ls /pccehr/archive | wc -l"); copies == "0" || r["consistency"] != "set" {
		t.Errorf("LVM made %s copies there: %s", copies, r)
	}
}
