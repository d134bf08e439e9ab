//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

const (
	// tables is a script that prints the tables of all device-mapper devices, and how /dat and /pccehr are mounted.
	tables = `dmsetup table | sort; findmnt -rno TARGET,SOURCE,OPTIONS /dat;
findmnt -rno TARGET,SOURCE,OPTIONS /pccehr`
	// writesSucceed writes and syncs a file on both volumes.
	writesSucceed = `for d in /dat /pccehr;
do timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none || exit 1; rm -f $d/probe; done`
	takeBothDefault = "lvm_snapshot volumes=/dat,/pccehr"
)

// TestAFailedSnapshotLeavesWritesGoing makes a stale device that has the name of the second snapshot's COW space. So
// lvcreate fails after it has loaded a table for the second origin. That table must not become live.
func TestAFailedSnapshotLeavesWritesGoing(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	logLines := g.run(t, "dmesg | wc -l")
	g.prepare(t, `dmsetup create vg00-pccehr_snap-cow --table "0 8192 zero"`,
		"dmsetup remove vg00-pccehr_snap-cow 2>/dev/null; true")
	r := g.module(t, takeBothDefault)
	if r.code() != "exists" || !strings.Contains(r.msg(), "vg00/pccehr") ||
		!strings.Contains(r.hint(), "dmsetup remove") {
		t.Errorf("a snapshot that cannot be made: %v", r)
	}
	g.run(t, writesSucceed)
	if said := g.run(t, "dmesg | tail -n +$(("+logLines+" + 1)) | grep -E 'erroring|I/O error|Aborting "+
		"journal|Remounting' ; true"); said != "" {
		t.Errorf("the kernel says:\n%s", said)
	}
	g.run(t, "dmsetup remove --retry vg00-pccehr_snap-cow")
	if now := g.run(t, tables); now != mapped {
		t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
	}
	g.checkUnchanged(t, before)
	g.ok(t, takeBothDefault)
	g.ok(t, "lvm_snapshot state=absent")
	g.checkUnchanged(t, before)
	t.Logf("refused: %s; writes went on, and every table and mount is what it was", r.msg())
}

// TestAFreezeOfAnotherProgramStays takes sets while another program keeps a file system frozen, as a guest agent does
// for the snapshot of a virtual machine. That freeze is not undone.
func TestAFreezeOfAnotherProgramStays(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	g.prepare(t, "fsfreeze -f /pccehr", "fsfreeze -u /pccehr 2>/dev/null; true")
	struck := withFailpoint("snapset.taken kill") + takeBothDefault
	for _, words := range []string{takeBothDefault, "lvm_snapshot volumes=/pccehr", struck} {
		r := g.module(t, words)
		if r.code() == "interrupted" {
			continue // the run is settled; the freeze is checked below
		}
		if r["failed"] == true {
			if r.code() != "busy" || !strings.Contains(r.msg(), "frozen") || !strings.Contains(r.msg(), "pccehr") {
				t.Errorf("%s: %v", words, r)
			}
		} else {
			g.ok(t, "lvm_snapshot state=absent")
		}
		t.Logf("%s beside a freeze of another program: %s", words, r.msg())
	}
	g.run(t, "fsfreeze -u /pccehr") // fails if it was not frozen any more
	if now := g.run(t, tables); now != mapped {
		t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
	}
	g.checkUnchanged(t, before)
	g.run(t, writesSucceed)
}

// TestOnlyTheRunsOwnSetIsUndone extends a set that exists, and fails to mount it: the set stays. Then two runs take
// sets with one name at the same time, of which one fails.
func TestOnlyTheRunsOwnSetIsUndone(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	before := g.run(t, devices)
	t.Cleanup(func() {
		g.run(t, "rm -f /root/nodir; lvm_snapshot name=s state=absent >/dev/null; umount /srv/other; "+
			"lvremove -qqy vg01/other; rmdir /srv/other")
		g.checkUnchanged(t, before)
	})
	g.run(t, "lvcreate -qqy -L 64M -n other vg01 && mkfs.ext4 -q /dev/vg01/other && "+
		"mkdir -p /srv/other && mount /dev/vg01/other /srv/other")
	g.ok(t, "lvm_snapshot name=s volumes=/pccehr size=20m")
	r := g.module(t, "lvm_snapshot name=s state=mounted size=40m mountpoint=/mnt options=nonsense")
	if r["failed"] != true || !strings.Contains(r.msg(), "extended set s, which stays so, but it is not mounted") {
		t.Errorf("extended, and not mounted: %v", r)
	}
	if got := g.run(t, "lvs --noheadings --units m -o lv_size vg00/pccehr_s | tr -d ' '"); got != "40.00m" {
		t.Errorf("the set's snapshot has %s", got)
	}
	g.ok(t, "lvm_snapshot name=s state=absent")

	first := g.start(t, withFailpoint("snapset.taken hang")+"lvm_snapshot name=s volumes=/pccehr size=20m")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	second := g.start(t, "lvm_snapshot name=s volumes=/srv/other size=20m")
	g.eventually(t, "the second run waits", "grep -q 'waiting for' /run/rewind/journey/*/progress", time.Minute)
	g.run(t, releaseFailpoint)
	if r := first.result(t); r["failed"] == true {
		t.Errorf("the first: %v", r)
	}
	if r := second.result(t); r.code() != "set_differs" {
		t.Errorf("the second set of that name: %v", r)
	}
	t.Log("a set that was extended and not mounted is still there; of two runs with one set name, in two volume groups, " +
		"one waits and fails")
}
