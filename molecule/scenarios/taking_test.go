//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// tables are the tables of all devices; what is written goes through both volumes to their disks.
const (
	tables = `dmsetup table | sort; findmnt -rno TARGET,SOURCE,OPTIONS /dat;
findmnt -rno TARGET,SOURCE,OPTIONS /pccehr`
	writesGoOn = `for d in /dat /pccehr;
do timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none || exit 1; rm -f $d/probe; done`
	bothVolumes = "lvm_snapshot volumes=/dat,/pccehr"
)

// TestAFailedSnapshotLeavesWritesGoing has a stale device stand where the second snapshot's COW space belongs: lvcreate
// fails after it has prepared a table for the second origin. That table is not made live.
func TestAFailedSnapshotLeavesWritesGoing(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	kernel := g.run(t, "dmesg | wc -l")
	g.scratch(t, `dmsetup create vg00-pccehr_snap-cow --table "0 8192 zero"`,
		"dmsetup remove vg00-pccehr_snap-cow 2>/dev/null; true")
	r := g.module(t, bothVolumes)
	if r.code() != "exists" || !strings.Contains(r.msg(), "vg00/pccehr") ||
		!strings.Contains(r.hint(), "dmsetup remove") {
		t.Errorf("a snapshot that cannot be made: %v", r)
	}
	g.run(t, writesGoOn)
	if said := g.run(t, "dmesg | tail -n +$(("+kernel+" + 1)) | grep -E 'erroring|I/O error|Aborting "+
		"journal|Remounting' ; true"); said != "" {
		t.Errorf("the kernel says:\n%s", said)
	}
	g.run(t, "dmsetup remove --retry vg00-pccehr_snap-cow")
	if now := g.run(t, tables); now != mapped {
		t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
	}
	g.unchanged(t, before)
	g.ok(t, bothVolumes)
	g.ok(t, "lvm_snapshot state=absent")
	g.unchanged(t, before)
	t.Logf("refused: %s; writes went on, and every table and mount is what it was", r.msg())
}

// TestAFreezeOfAnotherProgramStays takes sets while another program holds a file system frozen, as an agent of a
// virtual machine does for its host's snapshot.
func TestAFreezeOfAnotherProgramStays(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	g.scratch(t, "fsfreeze -f /pccehr", "fsfreeze -u /pccehr 2>/dev/null; true")
	struck := armed("snapset.taken kill") + bothVolumes
	for _, words := range []string{bothVolumes, "lvm_snapshot volumes=/pccehr", struck} {
		r := g.module(t, words)
		if r.code() == "interrupted" {
			continue // and settled: the freeze is looked at below
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
	g.unchanged(t, before)
	g.run(t, writesGoOn)
}

// TestOnlyTheRunsOwnSetIsUndone extends a set that exists, and cannot mount it; and has two sets of one name taken at
// once.
func TestOnlyTheRunsOwnSetIsUndone(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	before := g.run(t, devices)
	t.Cleanup(func() {
		g.run(t, "rm -f /root/nodir; lvm_snapshot name=s state=absent >/dev/null; umount /srv/other; lvremove -qqy "+
			"vg01/other; rmdir /srv/other")
		g.unchanged(t, before)
	})
	g.run(t, "lvcreate -qqy -L 64M -n other vg01 && mkfs.ext4 -q /dev/vg01/other && mkdir -p /srv/other && mount "+
		"/dev/vg01/other /srv/other")
	g.ok(t, "lvm_snapshot name=s volumes=/pccehr size=20m")
	r := g.module(t, "lvm_snapshot name=s state=mounted size=40m mountpoint=/mnt options=nonsense")
	if r["failed"] != true || !strings.Contains(r.msg(), "extended set s, which stays so, but it is not mounted") {
		t.Errorf("extended, and not mounted: %v", r)
	}
	if got := g.run(t, "lvs --noheadings --units m -o lv_size vg00/pccehr_s | tr -d ' '"); got != "40.00m" {
		t.Errorf("the set's snapshot has %s", got)
	}
	g.ok(t, "lvm_snapshot name=s state=absent")

	first := g.start(t, armed("snapset.taken hang")+"lvm_snapshot name=s volumes=/pccehr size=20m")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	second := g.start(t, "lvm_snapshot name=s volumes=/srv/other size=20m")
	g.eventually(t, "the second run waits", "grep -q 'waiting for' /run/rewind/journey/*/progress", time.Minute)
	g.run(t, goOn)
	if r := first.result(t); r["failed"] == true {
		t.Errorf("the first: %v", r)
	}
	if r := second.result(t); r.code() != "set_differs" {
		t.Errorf("the second set of that name: %v", r)
	}
	t.Log("a set that was extended and not mounted is still there; of two runs with one name, in two groups, one " +
		"waits and says no")
}
