//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// theIntruder stops LVM's command between its look whether the volume is closed and the moment from which the volume
// merges (the table of the merge is prepared then, and not live), mounts the volume, and lets LVM go on.
const theIntruder = `cat > /run/rw-intruder <<'X'
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

const withoutIntruder = `umount /srv/rw-late 2>/dev/null; systemctl stop rw-intruder pccehr 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1
mountpoint -q /pccehr || mount /pccehr; rm -f /pccehr/rw-file /run/rw-*; rmdir /srv/rw-late; systemctl start pccehr`

// TestMountedJustAsTheMergeBegins has the volume mounted by a program that nobody knows of when LVM has found it
// closed, and before it merges: what that mount has read is not what the volume holds then.
func TestMountedJustAsTheMergeBegins(t *testing.T) {
	for _, point := range []string{"/srv/rw-late", "/pccehr"} {
		t.Run(strings.TrimLeft(point, "/"), func(t *testing.T) { theGuest.mountedLate(t, point) })
	}
}

func (g guest) mountedLate(t *testing.T, point string) {
	t.Helper()
	g.scratch(t, theIntruder, withoutIntruder)
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
		t.Errorf("it does not say that %s was mounted: %s", point, warned)
	}
}
