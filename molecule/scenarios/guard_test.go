//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// makeUnordered makes two volumes for whose mount no boot waits: one without a file system, such as a virtual machine's
// disk, and one that is mounted with nofail. A service on each notes at its start what the volume holds.
var makeUnordered = `set -e
lvcreate -qqyWn -L 64M -n raw vg01; lvcreate -qqy -L 64M -n idle vg01; mkfs.ext4 -q /dev/vg01/idle; mkdir -p /srv/idle
cp /etc/fstab /root/fstab.before; echo '/dev/vg01/idle /srv/idle ext4 nofail 0 2' >>/etc/fstab
` + writeUnit("rw-raw.service", `
[Unit]
Wants=dev-vg01-raw.device
After=dev-vg01-raw.device
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'head -c3 /dev/vg01/raw >>/var/log/starts; echo >>/var/log/starts; sync /var/log/starts'
[Install]
WantedBy=multi-user.target
`) + writeUnit("rw-idle.service", `
[Unit]
Wants=srv-idle.mount
After=srv-idle.mount
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cat /srv/idle/file >>/var/log/starts; sync /var/log/starts'
[Install]
WantedBy=multi-user.target
`) + `systemctl daemon-reload; mount /srv/idle
echo old >/srv/idle/file; echo old | dd of=/dev/vg01/raw conv=fsync status=none
systemctl -q enable --now rw-raw rw-idle
lvm_snapshot name=guarded volumes=/srv/idle,vg01/raw size=32m >/dev/null
echo new >/srv/idle/file; echo new | dd of=/dev/vg01/raw conv=fsync status=none; rm -f /var/log/starts; sync`

const removeUnordered = `systemctl -q disable --now rw-raw rw-idle
rm -f /etc/systemd/system/rw-raw.service /etc/systemd/system/rw-idle.service /var/log/starts
umount /srv/idle; cp /root/fstab.before /etc/fstab; systemctl daemon-reload
lvm_snapshot name=guarded state=absent >/dev/null 2>&1; lvremove -ffqqy vg01/raw vg01/idle
! lvs --noheadings vg01 | grep .`

// TestServicesAndChecksWaitForTheGuard cuts the power when LVM has begun to merge one member and not the other. At the
// next boot the services start, and the file system is checked, after the boot guard has both members merge.
func TestServicesAndChecksWaitForTheGuard(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeUnordered, removeUnordered)
	r := g.fails(t, "lvm_merge name=guarded --check", "unsupported")
	if !strings.Contains(r.msg(), "vg01/raw") || !strings.Contains(r.hint(), "services=") {
		t.Errorf("a volume that nothing makes wait: %s", r)
	}
	const merge = "lvm_merge name=guarded services=rw-raw,rw-idle"
	c := g.start(t, withFailpoint("rollback.merging hang")+merge)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, "lvconvert -qqy --merge --background vg01/idle_guarded; sync")
	c.dropConnection(t)
	g.cutPower(t)
	g.eventually(t, "both services", "systemctl is-active -q rw-raw && systemctl is-active -q rw-idle", settleLimit)
	if starts := g.run(t, "sort -u /var/log/starts"); starts != "old" {
		t.Errorf("the services were started on %q", starts)
	}
	microseconds := func(unit, property string) int {
		n := g.runNumber(t, "systemctl show -P "+property+" "+unit)
		if n == 0 {
			t.Fatalf("%s has no %s", unit, property)
		}
		return n
	}
	guardEnd := microseconds("rewind-guard", "ExecMainExitTimestampMonotonic")
	checkStart := microseconds("systemd-fsck@dev-vg01-idle", "ExecMainStartTimestampMonotonic")
	if checkStart < guardEnd {
		t.Errorf("the check of the file system began %d µs before the guard had ended", guardEnd-checkStart)
	}
	g.ok(t, merge+" wait=true")
	g.checkTidy(t)
}

// mountByHand makes a volume and mounts it by hand, so that neither fstab nor a unit of systemd has it.
const mountByHand = `lvcreate -qqyWn -L 64M -n hand vg01; mkfs.ext4 -q /dev/vg01/hand; mkdir -p /srv/hand
mount -o noatime /dev/vg01/hand /srv/hand; echo old >/srv/hand/file
lvm_snapshot name=hand volumes=/srv/hand,/pccehr size=32m >/dev/null; echo new >/srv/hand/file; sync`

const unmountByHand = `umount /srv/hand; lvm_snapshot name=hand state=absent >/dev/null 2>&1
lvremove -ffqqy vg01/hand; rmdir /srv/hand; ! lvs --noheadings vg01 | grep .`

// TestAVolumeThatAScriptMounted rolls back a volume that no boot mounts. The check says so beforehand, and the rollback
// mounts the volume again, also after a power cut.
func TestAVolumeThatAScriptMounted(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, mountByHand, unmountByHand)
	const merge = "lvm_merge name=hand services=pccehr"
	r := g.ok(t, merge+" --check")
	if warned := fmt.Sprint(r["warnings"]); !strings.Contains(warned, "/srv/hand is in neither fstab nor a unit") ||
		strings.Contains(warned, "/pccehr is") {
		t.Errorf("warnings: %s", warned)
	}
	c := g.start(t, withFailpoint("rollback.mounting hang")+merge)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	c.dropConnection(t)
	g.cutPower(t)
	g.eventually(t, "what the set held, mounted as it was",
		`test "$(cat /srv/hand/file)" = old && findmnt -no OPTIONS /srv/hand | grep -q noatime`, settleLimit)
	g.ok(t, merge+" wait=true")
	g.checkTidy(t)
}
