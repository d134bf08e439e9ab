//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// makeIntruder writes a program that stops LVM's command when it has found the volume closed, and before the volume
// merges: the merge's table is loaded then, but not live. The program mounts the volume, and lets LVM's command go on.
const makeIntruder = `cat > /run/rw-intruder <<'X'
my $pid;
until ($pid) {
	for my $f (glob "/proc/[0-9]*/cmdline") {
		open my $h, "<", $f or next;
		$pid = $1 if <$h> =~ /^lvm\0lvconvert\0/ && $f =~ /(\d+)/;
	}
}
open my $control, "+<", "/dev/mapper/control" or die;
while (1) {
	my $status = pack "L10 Q a128 a129 a7", 4, 0, 0, 312, 312, 0, 0, 0, 0, 0, 0, "vg00-pccehr", "", "";
	ioctl $control, 0xc138fd07, $status or next;
	last if unpack("x28 L", $status) & 64;
}
kill "STOP", $pid;
system "mount /dev/vg00/pccehr $ARGV[0]; dmsetup table vg00-pccehr; cat $ARGV[0]/rw-file";
kill "CONT", $pid;
X
echo old > /pccehr/rw-file; mkdir -p /srv/rw-late
`

const removeIntruder = `umount /srv/rw-late 2>/dev/null; systemctl stop rw-intruder pccehr 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1
mountpoint -q /pccehr || mount /pccehr; rm -f /pccehr/rw-file /run/rw-*; rmdir /srv/rw-late; systemctl start pccehr`

// TestMountedJustAsTheMergeBegins has a program that Rewind does not know of mount the volume when LVM has found it
// closed, and before it merges. What that mount has read is then not what the volume holds, so Rewind must unmount it
// and mount the volume there again.
func TestMountedJustAsTheMergeBegins(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	for _, point := range []string{"/srv/rw-late", "/pccehr"} {
		t.Run(strings.TrimLeft(point, "/"), func(t *testing.T) {
			if point == "/pccehr" {
				tortured(t)
			}
			g.rollBackWithIntruder(t, point)
		})
	}
}

// rollBackWithIntruder rolls /pccehr back while the intruder mounts the volume at a mount point.
func (g guest) rollBackWithIntruder(t *testing.T, point string) {
	t.Helper()
	g.prepare(t, makeIntruder, removeIntruder)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=100m")
	g.run(t, `echo new > /pccehr/rw-file; sync
systemd-run -q --unit=rw-intruder -p StandardOutput=file:/run/rw-seen -p StandardError=inherit \
perl /run/rw-intruder `+point)
	r := g.ok(t, "lvm_merge services=pccehr wait=true")
	seen := g.run(t, "cat /run/rw-seen")
	if !strings.Contains(seen, "snapshot-origin") || !strings.HasSuffix(seen, "\nnew") {
		t.Fatalf("the test proves nothing, because the volume was not mounted before it merged: %q", seen)
	}
	got := g.run(t, "cat /pccehr/rw-file "+point+`/rw-file; findmnt -no OPTIONS /pccehr | cut -d, -f1
systemctl is-active pccehr; blockdev --getro /dev/vg00/pccehr
systemctl stop pccehr; umount /srv/rw-late; umount /pccehr
e2fsck -fn /dev/vg00/pccehr >/run/rw-fsck 2>&1; echo $?`)
	if want := "old\nold\nrw\nactive\n0\n0"; got != want {
		t.Errorf("after the rollback: %q, want %q", got, want)
	}
	if warned := fmt.Sprint(r["warnings"]); point != "/pccehr" && !strings.Contains(warned, point) {
		t.Errorf("no warning says that %s was mounted: %s", point, warned)
	}
}

// makeOpener writes a program that opens the volume, and keeps it open, when LVM's command that merges has been started
// and has not looked at the volume yet.
const makeOpener = `cat > /run/rw-opener <<'X'
my $pid;
until ($pid) {
	for my $f (glob "/proc/[0-9]*/cmdline") {
		open my $h, "<", $f or next;
		$pid = $1 if <$h> =~ /^lvm\0lvconvert\0/ && $f =~ /(\d+)/;
	}
}
kill "STOP", $pid;
open my $volume, "<", "/dev/vg00/pccehr" or die;
kill "CONT", $pid;
sleep;
X
echo old > /pccehr/rw-file
`

const removeOpener = `systemctl stop rw-opener pccehr 2>/dev/null; lvm_snapshot state=absent >/dev/null 2>&1
mountpoint -q /pccehr || mount /pccehr; rm -f /pccehr/rw-file /run/rw-*; systemctl start pccehr`

// TestOpenedJustAsTheMergeBegins has a program that Rewind does not know of open the volume when LVM is about to look
// at it. So LVM defers the merge. Rewind takes that back, and starts the services again.
func TestOpenedJustAsTheMergeBegins(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeOpener, removeOpener)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=100m")
	g.run(t, "echo new > /pccehr/rw-file; sync; systemd-run -q --unit=rw-opener perl /run/rw-opener")
	r := g.fails(t, "lvm_merge services=pccehr wait=true", "busy")
	for _, want := range []string{"nothing was rolled back", "perl"} {
		if !strings.Contains(r.msg(), want) {
			t.Errorf("the message does not say %q: %s", want, r.msg())
		}
	}
	const state = `cat /pccehr/rw-file; systemctl is-active pccehr; ls /run/rewind/metadata 2>/dev/null
blockdev --getro /dev/vg00/pccehr; lvs --noheadings -o lv_name,origin,lv_active vg00 | grep -w pccehr_snap | xargs
touch /pccehr/rw-file`
	if got, want := g.run(t, state), "new\nactive\n0\npccehr_snap pccehr active"; got != want {
		t.Errorf("after the deferred merge was taken back: %q, want %q", got, want)
	}
	g.run(t, "systemctl stop rw-opener")
	g.ok(t, "lvm_merge services=pccehr wait=true")
	if got, want := g.run(t, state), "old\nactive\n0"; strings.TrimSpace(got) != want {
		t.Errorf("after the rollback: %q, want %q", got, want)
	}
}
