//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

const (
	// hangDisk makes dirty pages of /pccehr, and then suspends the device below the volume, so that they cannot be written
	// out. The volume itself is not suspended, so that LVM does not see it: it is as if a path or a disk did not answer.
	hangDisk = "rm -f /pccehr/rw-dirty; sync; dd if=/dev/zero of=/pccehr/rw-dirty bs=1M count=4 2>/dev/null; " +
		"dmsetup suspend vg00-pccehr-real\n"
	// resumeDisk has the device answer again.
	resumeDisk = "dmsetup resume vg00-pccehr-real\n"
)

// TestADiskThatTakesNothing rolls back while the volume's disk does not answer. If that is so from the beginning, no
// service is stopped. If it begins while the services are down, they are started again as soon as the disk answers.
func TestADiskThatTakesNothing(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, "lvm_snapshot volumes=/pccehr size=100m >/dev/null; echo as it was >/pccehr/marker; sync", resumeDisk+
		"systemctl stop pccehr; lvm_snapshot state=absent >/dev/null 2>&1; rm -f /pccehr/rw-dirty /pccehr/marker; "+
		"systemctl start pccehr; sysctl -qw vm.dirty_writeback_centisecs=500")
	before := g.run(t, "systemctl show -P InvocationID pccehr")
	g.run(t, hangDisk)
	r := g.module(t, "lvm_merge services=pccehr timeout=20")
	again := g.module(t, "lvm_merge services=pccehr timeout=20")
	g.run(t, resumeDisk)
	if again.code() != "busy" || !strings.Contains(again.hint(), "wait for the end of rewind-") ||
		strings.Contains(again.hint(), "end the processes") {
		t.Errorf("the same call again while the first run waits for the disk: %s", again)
	}
	if r.code() != "timeout" || !strings.Contains(r.msg(), "in memory of /pccehr") ||
		r.hint() == "" || r["changed"] == true {
		t.Errorf("dirty pages that cannot be written out beforehand: %s", r)
	}
	if now := g.run(t, "systemctl show -P InvocationID pccehr"); now != before {
		t.Error("the application was stopped without need")
	}

	// The kernel is told not to write dirty pages out by itself, so only the rollback writes out the 16 MiB that the
	// application's file system has in memory, and it does so before the unmount. The file is a new one, because ext4
	// writes out at once what replaces a truncated file (auto_da_alloc).
	const sectors = "awk '{print $7}' " +
		"/sys/dev/block/$(dmsetup info -c --noheadings --separator : -o major,minor vg00-pccehr)/stat"
	written := g.runNumber(t, "sysctl -qw vm.dirty_writeback_centisecs=0; "+
		"rm -f /pccehr/rw-dirty; sync; dd if=/dev/zero of=/pccehr/rw-dirty bs=1M count=16 2>/dev/null; "+sectors)
	c := g.start(t, withFailpoint("rollback.unmounting hang")+"lvm_merge services=pccehr timeout=60")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	if written = g.runNumber(t, sectors) - written; written < 16<<20/512 {
		t.Errorf("%d sectors were written out before the unmount, want those of 16 MiB", written)
	}
	g.run(t, hangDisk+releaseFailpoint)
	g.eventually(t, "the way back", "grep -q undoing /run/rewind/journey/*/progress", settleLimit)
	g.run(t, resumeDisk)
	r = c.result(t)
	if r.code() != "timeout" || !strings.Contains(r.msg(), "the unmount of /pccehr was not") || r["changed"] == true {
		t.Errorf("an unmount that does not end: %s", r)
	}
	g.eventually(t, "the application on its volume as it was", `test "$(`+markerInUse+`)" = "as it was"`, settleLimit)
	t.Logf("no service was stopped for a disk that does not answer; a disk that stops answering later: %s", r.msg())
}
