//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeLister makes a service that reads a file on /pccehr ten times a second, as a monitoring program may, and appends
// what it has read, or the error, to /run/rw-seen. It also makes a second mount unit of the same volume.
var makeLister = writeUnit("rw-list.service", `
[Service]
ExecStart=/bin/bash -c 'while :; do cat /pccehr/rw-file >> /run/rw-seen 2>&1; sleep 0.1; done'
`) + writeUnit("srv-again.mount", `
[Mount]
What=/dev/vg00/pccehr
Where=/srv/again
Type=ext4
`)

// mountByAutomount has fstab mount /pccehr by an automount unit, and leaves it unmounted.
const mountByAutomount = `cp /etc/fstab /run/rw-fstab
options=defaults,x-systemd.automount,x-systemd.idle-timeout=20
sed -i "s#^/dev/vg00/pccehr .*#/dev/vg00/pccehr /pccehr ext4 $options 0 2#" /etc/fstab
echo old > /pccehr/rw-file
systemctl daemon-reload; systemctl stop pccehr pccehr.mount; systemctl start pccehr.automount
`

// undoAutomount ends the test's units and mounts /pccehr again as the guest has it.
const undoAutomount = `
systemctl stop rw-ask rw-list pccehr; umount /srv/again 2>/dev/null; systemctl stop pccehr.automount pccehr.mount
cp /run/rw-fstab /etc/fstab; rm -f /etc/systemd/system/rw-* /etc/systemd/system/srv-again.mount /run/rw-*
systemctl daemon-reload; systemctl stop 'rewind-hold-*'
lvm_snapshot state=absent >/dev/null 2>&1
mountpoint -q /pccehr || mount /pccehr; rm -rf /pccehr/rw-file /srv/rw-mirror /var/lib/rewind/jobs
systemctl start pccehr
`

// TestNothingMountsAMemberWhileItIsRolledBack rolls /pccehr back where it is mounted by an automount unit, which a
// program triggers ten times a second, and while another mount unit of the volume is started again and again.
func TestNothingMountsAMemberWhileItIsRolledBack(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeLister+mountByAutomount, undoAutomount)
	t.Cleanup(func() {
		if t.Failed() {
			seen, _ := g.try("uniq -c /run/rw-seen; cat /srv/again/rw-file; journalctl --no-pager | tail -80")
			t.Logf("the lister saw:\n%s", seen)
		}
	})
	// Nothing has triggered the automount yet. lvm_snapshot finds the volume in the mount unit and does not mount it.
	g.ok(t, "lvm_snapshot volumes=/pccehr size=100m")
	seen := g.run(t, "findmnt -no FSTYPE /pccehr; lvs --noheadings -o origin vg00/pccehr_snap | xargs")
	if seen != "autofs\npccehr" {
		t.Errorf("after the snapshot of an automount point that was not mounted: %q", seen)
	}
	g.run(t, "mkdir -p /srv/rw-mirror")
	// A backup stores the files below the automount point, as if the volume were mounted.
	g.ok(t, "snap_backup volumes=vg00/pccehr backend=mirror backend_options=path=/srv/rw-mirror")
	if got := g.run(t, "find /srv/rw-mirror -path '*/pccehr/rw-file' | grep -v run/rewind | wc -l"); got != "1" {
		t.Errorf("%s backups have the file below /pccehr, want 1", got)
	}
	g.run(t, `echo new > /pccehr/rw-file; systemctl start pccehr rw-list
until grep -q new /run/rw-seen; do sleep 0.1; done`)
	// The other mount unit is started when the services have stopped. It waits, too, and mounts what was rolled back.
	g.run(t, `systemd-run -q --unit=rw-ask --collect bash -c 'while systemctl -q is-active pccehr; do sleep 0.05; done
while [ ! -e /run/rw-asked ]; do systemctl --no-block start srv-again.mount; sleep 0.1; done'`)
	r := g.ok(t, "lvm_merge services=pccehr wait=true")
	g.run(t, "touch /run/rw-asked; systemctl start srv-again.mount")
	g.eventually(t, "the lister's look at the old file", "tail -1 /run/rw-seen | grep -qx old", settleLimit)
	got := g.run(t, `sort -u /run/rw-seen | xargs; cat /srv/again/rw-file; findmnt -no TARGET -t ext4 /pccehr | wc -l
systemctl is-active pccehr pccehr.automount rw-list | xargs
systemctl list-units --all --no-legend 'rewind-hold-*'; systemctl list-jobs --no-legend`)
	if want := "new old\nold\n1\nactive active active"; strings.TrimSpace(got) != want {
		t.Errorf("after the rollback: %q, want %q", got, want)
	}
	t.Logf("the volume of an automount point that was not mounted was found; a program that reads there, and a mount "+
		"unit that is started again and again, waited for the rollback and read nothing but new and old: %s", r.msg())
}
