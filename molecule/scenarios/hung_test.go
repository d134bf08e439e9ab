//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

const (
	// hungDisk has something of /pccehr in memory alone, below which the device takes nothing any more. The volume itself
	// is not suspended, so that LVM sees nothing of it: it is as with a path or a disk that does not answer.
	hungDisk = "rm -f /pccehr/rw-dirty; sync; dd if=/dev/zero of=/pccehr/rw-dirty bs=1M count=4 2>/dev/null; dmsetup suspend vg00-pccehr-real\n"
	goodDisk = "dmsetup resume vg00-pccehr-real\n"
)

// TestADiskThatTakesNothing rolls back while the volume's disk does not answer. Where that is so beforehand, no service
// is stopped; where it comes while they are down, they are put back as soon as it answers.
func TestADiskThatTakesNothing(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, "lvm_snapshot volumes=/pccehr size=100m >/dev/null; echo as it was >/pccehr/marker; sync", goodDisk+
		"systemctl stop pccehr; lvm_snapshot state=absent >/dev/null 2>&1; rm -f /pccehr/rw-dirty /pccehr/marker; systemctl start pccehr; "+
		"sysctl -qw vm.dirty_writeback_centisecs=500")
	before := g.run(t, "systemctl show -P InvocationID pccehr")
	g.run(t, hungDisk)
	r := g.module(t, "lvm_merge services=pccehr timeout=20")
	again := g.module(t, "lvm_merge services=pccehr timeout=20")
	g.run(t, goodDisk)
	if again.code() != "busy" || !strings.Contains(again.hint(), "wait for the end of rewind-") || strings.Contains(again.hint(), "end the processes") {
		t.Errorf("the same again while the first one waits for the disk: %s", again)
	}
	if r.code() != "timeout" || !strings.Contains(r.msg(), "in memory of /pccehr") || r.hint() == "" || r["changed"] == true {
		t.Errorf("what cannot be written out beforehand: %s", r)
	}
	if now := g.run(t, "systemctl show -P InvocationID pccehr"); now != before {
		t.Error("the application was stopped for nothing")
	}

	// Nobody but the rollback writes out the 16 MiB that the application's file system has in memory, and the unmount need
	// not. The file is a new one: what was truncated before, ext4 writes out by itself (auto_da_alloc).
	const sectors = "awk '{print $7}' /sys/dev/block/$(dmsetup info -c --noheadings --separator : -o major,minor vg00-pccehr)/stat"
	written := g.number(t, "sysctl -qw vm.dirty_writeback_centisecs=0; "+
		"rm -f /pccehr/rw-dirty; sync; dd if=/dev/zero of=/pccehr/rw-dirty bs=1M count=16 2>/dev/null; "+sectors)
	c := g.start(t, armed("rollback.unmounting hang")+"lvm_merge services=pccehr timeout=60")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	if written = g.number(t, sectors) - written; written < 16<<20/512 {
		t.Errorf("%d sectors were written out before the unmount, want those of 16 MiB", written)
	}
	g.run(t, hungDisk+goOn)
	g.eventually(t, "the way back", "grep -q undoing /run/rewind/journey/*/progress", settled)
	g.run(t, goodDisk)
	if r = c.result(t); r.code() != "timeout" || !strings.Contains(r.msg(), "the unmount of /pccehr was not") || r["changed"] == true {
		t.Errorf("an unmount that does not end: %s", r)
	}
	g.eventually(t, "the application on its volume as it was", `test "$(`+inUse+`)" = "as it was"`, settled)
	t.Logf("no service was stopped for a disk that takes nothing; a disk that stops after that: %s", r.msg())
}
