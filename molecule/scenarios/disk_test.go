//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// fillRoot leaves no free block on the root file system, on which are the journal and LVM's files in /etc/lvm.
const fillRoot = `n=$(ls /rw-fill.* 2>/dev/null | wc -l); for size in 1G 100M 10M 1M 100K 4K; do
while fallocate -l $size /rw-fill.$n 2>/dev/null; do n=$((n+1)); done; rm -f /rw-fill.$n; done`

// coverWithFull returns shell text that mounts a file system in memory, which has no free block, over a directory.
func coverWithFull(dir string) string {
	return "mount -t tmpfs -o size=4k tmpfs " + dir + " && echo x >" + dir + "/x; "
}

// markerInUse prints the marker on /pccehr if the application is active and its volume is mounted. Else it fails.
const markerInUse = "systemctl is-active -q pccehr && findmnt -n /pccehr >/dev/null && cat /pccehr/marker"

// TestNoRoomOnTheWay fills the disk at every step of a rollback that writes something. Before LVM has begun to merge,
// the services run again with the data as it was, and no later boot merges. After that they run with the data of the
// set.
func TestNoRoomOnTheWay(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	const merge = "lvm_merge services=pccehr"
	const take = "echo kept >/pccehr/marker; sync; lvm_snapshot volumes=/pccehr >/dev/null && " +
		"echo lost >/pccehr/marker; sync"
	g.prepare(t, take+"; ! lvm_merge name=none >/dev/null 2>&1", `rm -f /rw-fill.*
umount /etc/lvm/archive /var/lib/rewind/journal 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1
systemctl is-active -q pccehr || systemctl start pccehr; rm -f /pccehr/marker`)
	// checkUntouched fails the test if something was rolled back, or if the application does not run.
	checkUntouched := func(t *testing.T) {
		t.Helper()
		g.eventually(t, "the application on its volume as it was", `test "$(`+markerInUse+`)" = lost`, settleLimit)
		if sets := g.ok(t, "lvm_snapshot_info name=snap").rows("sets"); len(sets) != 1 || sets[0]["state"] != "ok" {
			t.Errorf("the set is %v", sets)
		}
	}
	// strikeAtMerging starts a rollback, runs a script when it hangs just before the point of no return, has it go on, and
	// returns its result.
	strikeAtMerging := func(t *testing.T, strike string) result {
		t.Helper()
		c := g.start(t, withFailpoint("rollback.merging hang")+merge)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, strike+releaseFailpoint)
		return c.result(t)
	}

	t.Run("before the first service stops", func(t *testing.T) {
		before := g.run(t, "systemctl show -P InvocationID pccehr")
		g.run(t, fillRoot)
		t.Cleanup(func() { g.run(t, "rm -f /rw-fill.*") })
		for _, words := range []string{merge + " --check", merge} {
			if r := g.fails(t, words, "no_space"); !strings.Contains(r.msg(), "/etc/lvm") || r.hint() == "" {
				t.Errorf("%s: %s", words, r)
			}
		}
		g.run(t, "rm -f /rw-fill.*")
		if now := g.run(t, "systemctl show -P InvocationID pccehr"); now != before {
			t.Error("the application was stopped")
		}
		checkUntouched(t)
		g.checkTidy(t)
	})
	t.Run("LVM refuses the merge", func(t *testing.T) {
		r := strikeAtMerging(t, coverWithFull("/etc/lvm/archive"))
		g.run(t, "umount /etc/lvm/archive")
		if r.code() != "merge_failed" || !strings.Contains(r.msg(), "nothing was rolled back") || r["changed"] == true {
			t.Errorf("%s", r)
		}
		checkUntouched(t)
		g.checkTidy(t)
		t.Log(r.msg())
	})
	t.Run("LVM refuses the merge, and the way back cannot be recorded", func(t *testing.T) {
		tortured(t)
		r := strikeAtMerging(t, coverWithFull("/etc/lvm/archive")+coverWithFull("/var/lib/rewind/journal"))
		if r.code() != "merge_failed" {
			t.Errorf("%s", r)
		}
		checkUntouched(t)
		g.run(t, "sync")
		g.cutPower(t) // the journal on the disk is at the step "merging"
		checkUntouched(t)
		g.ok(t, "lvm_snapshot volumes=/pccehr") // the next run closes the journal entry
		g.checkTidy(t)
	})
	t.Run("what is set aside is enough", func(t *testing.T) {
		tortured(t)
		r := strikeAtMerging(t, "("+fillRoot+"); ")
		g.run(t, "rm -f /rw-fill.*")
		if r.failed() {
			t.Errorf("%s", r)
		}
		g.eventually(t, "the data of the set", `test "$(`+markerInUse+`)" = kept`, settleLimit)
		g.ok(t, merge+" wait=true")
		g.checkTidy(t)
	})
	t.Run("past the point of no return", func(t *testing.T) {
		g.run(t, take)
		r := strikeAtMerging(t, coverWithFull("/var/lib/rewind/journal"))
		if r.failed() || !strings.Contains(fmt.Sprint(r["warnings"]), "journal") {
			t.Errorf("%s", r)
		}
		g.eventually(t, "the data of the set", `test "$(`+markerInUse+`)" = kept`, settleLimit)
		g.run(t, "umount /var/lib/rewind/journal")
		if again := g.ok(t, merge+" wait=true"); again["state"] != "merged" {
			t.Errorf("the next run: %s", again)
		}
		g.eventually(t, "the data of the set", `test "$(`+markerInUse+`)" = kept`, settleLimit)
		g.checkTidy(t)
	})
}

// TestProgramsRunWhereTheyMay mounts the directories in which a program keeps its copy noexec: first the first one, so
// that it takes the next, then all of them.
func TestProgramsRunWhereTheyMay(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	noexec := func(dir string) string {
		return "mkdir -p " + dir + "; mount --bind " + dir + " " + dir + " && mount -o remount,bind,noexec " + dir + "; "
	}
	g.prepare(t, noexec("/var/lib/rewind"), `umount /var/lib/rewind /usr/local/lib/rewind /opt/rewind 2>/dev/null
rm -rf /usr/local/lib/rewind /opt/rewind
lvm_snapshot state=absent >/dev/null 2>&1; rm -f /pccehr/marker; true`)
	g.run(t, "echo kept >/pccehr/marker; sync")
	g.ok(t, "lvm_snapshot volumes=/pccehr")
	g.run(t, "echo lost >/pccehr/marker; sync")
	c := g.start(t, withFailpoint("rollback.unmounted hang")+"lvm_merge services=pccehr")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	guard := g.run(t, "grep -h -e ^ExecStart -e ^Requires /etc/systemd/system/rewind-guard.service; "+releaseFailpoint)
	if !strings.Contains(guard, "ExecStart=/usr/local/lib/rewind/rewind-") ||
		!strings.Contains(guard, "RequiresMountsFor=/var/lib/rewind /usr/local/lib/rewind") {
		t.Errorf("the boot guard: %s", guard)
	}
	if r := c.result(t); r.failed() {
		t.Errorf("%s", r)
	}
	g.ok(t, "lvm_merge services=pccehr wait=true")
	if marker := g.run(t, "cat /pccehr/marker"); marker != "kept" {
		t.Errorf("the volume holds %s", marker)
	}
	g.checkTidy(t)
	if info := g.ok(t, "lvm_snapshot_info"); info["program_dir"] != "/usr/local/lib/rewind" {
		t.Errorf("lvm_snapshot_info: %v", info["program_dir"])
	}
	g.run(t, noexec("/usr/local/lib/rewind")+noexec("/opt/rewind"))
	const take = "lvm_snapshot volumes=/pccehr"
	for _, words := range []string{take + " --check", take, "lvm_merge services=pccehr --check"} {
		r := g.fails(t, words, "unsupported")
		if !strings.Contains(r.msg(), "/opt/rewind is mounted noexec") || !strings.Contains(r.hint(), "remount,exec") {
			t.Errorf("%s: %s", words, r)
		}
	}
	if info := g.ok(t, "lvm_snapshot_info"); !strings.Contains(info.msg(), "mounted noexec") {
		t.Errorf("lvm_snapshot_info: %s", info.msg())
	}
}

// TestDiskFillsAfterTheInstant fills the disk when a set's snapshots are of one instant and LVM's metadata does not say
// so yet. The room that was set aside is enough to finish the set, and the rest of it is freed.
func TestDiskFillsAfterTheInstant(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "true", "rm -f /rw-fill.*; lvm_snapshot state=absent >/dev/null 2>&1; true")
	const take = "lvm_snapshot volumes=/pccehr,/dat size=32m"
	const left = `ls -d /etc/lvm/.rewind-* /var/lib/rewind/.room-* 2>/dev/null | wc -l`
	c := g.start(t, withFailpoint("snapset.still hang")+take)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	if n := g.run(t, left); n != "2" {
		t.Errorf("%s files are set aside", n)
	}
	g.run(t, fillRoot+"; "+releaseFailpoint)
	if r := c.result(t); r.failed() {
		t.Errorf("%s", r)
	}
	g.run(t, fillRoot) // fills what was set aside and is free again
	if r := g.fails(t, "lvm_snapshot name=more volumes=/pccehr --check", "no_space"); r.hint() == "" {
		t.Errorf("%s", r)
	}
	g.run(t, "rm -f /rw-fill.*")
	if sets := g.ok(t, "lvm_snapshot_info name=snap").rows("sets"); len(sets) != 1 || sets[0]["state"] != "ok" {
		t.Errorf("the set is %v", sets)
	}
	if n := g.run(t, left); n != "0" {
		t.Errorf("%s files are left", n)
	}
	g.ok(t, "lvm_snapshot state=absent")
	g.checkTidy(t)
}
