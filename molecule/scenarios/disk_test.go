//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// fillRoot leaves not one free block on the root file system, which holds the journal and what LVM writes in /etc/lvm.
const fillRoot = `n=$(ls /rw-fill.* 2>/dev/null | wc -l); for size in 1G 100M 10M 1M 100K 4K; do
while fallocate -l $size /rw-fill.$n 2>/dev/null; do n=$((n+1)); done; rm -f /rw-fill.$n; done`

// fullOver covers a directory by a file system in memory without a free block.
func fullOver(dir string) string {
	return "mount -t tmpfs -o size=4k tmpfs " + dir + " && echo x >" + dir + "/x; "
}

// inUse prints one line where the application and its volume are in use, with what the volume holds.
const inUse = "systemctl is-active -q pccehr && findmnt -n /pccehr >/dev/null && cat /pccehr/marker"

// TestNoRoomOnTheWay has the disk fill at every place of a rollback where something is to be written. Before a merge
// has begun the services run on as they were, and no boot merges; after that they run on what is rolled back.
func TestNoRoomOnTheWay(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	const merge = "lvm_merge services=pccehr"
	const take = "echo kept >/pccehr/marker; sync; lvm_snapshot volumes=/pccehr >/dev/null && " +
		"echo lost >/pccehr/marker; sync"
	g.scratch(t, take+"; ! lvm_merge name=none >/dev/null 2>&1", `rm -f /rw-fill.*
umount /etc/lvm/archive /var/lib/rewind/journal 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1
systemctl is-active -q pccehr || systemctl start pccehr; rm -f /pccehr/marker`)
	// untouched holds that nothing was rolled back, and that the application runs.
	untouched := func(t *testing.T) {
		t.Helper()
		g.eventually(t, "the application on its volume as it was", `test "$(`+inUse+`)" = lost`, settled)
		if sets := g.ok(t, "lvm_snapshot_info name=snap").rows("sets"); len(sets) != 1 || sets[0]["state"] != "ok" {
			t.Errorf("the set is %v", sets)
		}
	}
	// hung starts a rollback, does something when it stands at the point of no return, and has it go on.
	hung := func(t *testing.T, strike string) result {
		t.Helper()
		c := g.start(t, armed("rollback.merging hang")+merge)
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		g.run(t, strike+goOn)
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
		untouched(t)
		g.tidy(t)
	})
	t.Run("LVM refuses the merge", func(t *testing.T) {
		r := hung(t, fullOver("/etc/lvm/archive"))
		g.run(t, "umount /etc/lvm/archive")
		if r.code() != "merge_failed" || !strings.Contains(r.msg(), "nothing was rolled back") || r["changed"] == true {
			t.Errorf("%s", r)
		}
		untouched(t)
		g.tidy(t)
		t.Log(r.msg())
	})
	t.Run("LVM refuses the merge, and the way back cannot be recorded", func(t *testing.T) {
		tortured(t)
		r := hung(t, fullOver("/etc/lvm/archive")+fullOver("/var/lib/rewind/journal"))
		if r.code() != "merge_failed" {
			t.Errorf("%s", r)
		}
		untouched(t)
		g.run(t, "sync")
		g.cut(t) // the journal on the disk says merging
		untouched(t)
		g.ok(t, "lvm_snapshot volumes=/pccehr") // the next run closes the record
		g.tidy(t)
	})
	t.Run("what is set aside is enough", func(t *testing.T) {
		tortured(t)
		r := hung(t, "("+fillRoot+"); ")
		g.run(t, "rm -f /rw-fill.*")
		if r.failed() {
			t.Errorf("%s", r)
		}
		g.eventually(t, "the data of the set", `test "$(`+inUse+`)" = kept`, settled)
		g.ok(t, merge+" wait=true")
		g.tidy(t)
	})
	t.Run("past the point of no return", func(t *testing.T) {
		g.run(t, take)
		r := hung(t, fullOver("/var/lib/rewind/journal"))
		if r.failed() || !strings.Contains(fmt.Sprint(r["warnings"]), "journal") {
			t.Errorf("%s", r)
		}
		g.eventually(t, "the data of the set", `test "$(`+inUse+`)" = kept`, settled)
		g.run(t, "umount /var/lib/rewind/journal")
		if again := g.ok(t, merge+" wait=true"); again["state"] != "merged" {
			t.Errorf("the next run: %s", again)
		}
		g.eventually(t, "the data of the set", `test "$(`+inUse+`)" = kept`, settled)
		g.tidy(t)
	})
}

// TestProgramsRunWhereTheyMay mounts noexec what the program is to be kept in.
func TestProgramsRunWhereTheyMay(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	noexec := func(dir string) string {
		return "mkdir -p " + dir + "; mount --bind " + dir + " " + dir + " && mount -o remount,bind,noexec " + dir + "; "
	}
	g.scratch(t, noexec("/var/lib/rewind"), `umount /var/lib/rewind /usr/local/lib/rewind /opt/rewind 2>/dev/null
rm -rf /usr/local/lib/rewind /opt/rewind
lvm_snapshot state=absent >/dev/null 2>&1; rm -f /pccehr/marker; true`)
	g.run(t, "echo kept >/pccehr/marker; sync")
	g.ok(t, "lvm_snapshot volumes=/pccehr")
	g.run(t, "echo lost >/pccehr/marker; sync")
	c := g.start(t, armed("rollback.unmounted hang")+"lvm_merge services=pccehr")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	guard := g.run(t, "grep -h -e ^ExecStart -e ^Requires /etc/systemd/system/rewind-guard.service; "+goOn)
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
	g.tidy(t)
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

// TestDiskFillsAfterTheInstant has the disk fill when a set's snapshots are of one instant and nothing says so yet. The
// set is good all the same, and what was set aside for that is given back.
func TestDiskFillsAfterTheInstant(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, "true", "rm -f /rw-fill.*; lvm_snapshot state=absent >/dev/null 2>&1; true")
	const take = "lvm_snapshot volumes=/pccehr,/dat size=32m"
	const left = `ls -d /etc/lvm/.rewind-* /var/lib/rewind/.room-* 2>/dev/null | wc -l`
	c := g.start(t, armed("snapset.still hang")+take)
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	if n := g.run(t, left); n != "2" {
		t.Errorf("%s files are set aside", n)
	}
	g.run(t, fillRoot+"; "+goOn)
	if r := c.result(t); r.failed() {
		t.Errorf("%s", r)
	}
	g.run(t, fillRoot) // what was set aside is free again
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
	g.tidy(t)
}
