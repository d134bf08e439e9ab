//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// freezeLimit is how long writes may wait in these tests, in seconds.
const freezeLimit = 60

// takeBoth is the set whose taking is interrupted.
var takeBoth = fmt.Sprintf("lvm_snapshot volumes=/dat,/pccehr freeze_timeout=%d", freezeLimit)

// insideCreate kills the whole control group of the journey as soon as a device exists, and prints what ran in it then.
// It is put before the module's words. Builtins alone look, because a fork takes longer than what is waited for; the newest
// unit's name is the last.
func insideCreate(device string) string {
	return `( until [ -e /dev/mapper/` + device + ` ]; do :; done
for unit in /sys/fs/cgroup/system.slice/rewind-2*.service; do :; done
cd "$unit"; while read -r p; do read -r c </proc/$p/comm; echo $c; done <cgroup.procs >/run/killed; echo 1 >cgroup.kill ) & `
}

// TestKilledWhileWritesWait kills the journey at every moment at which writes to the volumes wait.
func TestKilledWhileWritesWait(t *testing.T) {
	g := guestFor(t)
	type moment struct {
		name, words string
		on          string // the guest that plays it also without -torture
	}
	moments := []moment{
		{"nothing done yet", armed("snapshot.taking kill"), ""},
		{"all held", armed("instant.held kill"), ""},
		{"all held, with its control group", armed("instant.held groupkill"), ""},
		{"between the snapshots' starts", armed("instant.started kill"), ""},
		{"between the resumes", armed("instant.resumed kill"), "d13"},
		{"the first snapshot's table is out of use", armed("instant.prepare#2 kill"), ""},
		{"the second snapshot's header is blank", armed("instant.prepare#7 kill"), ""},
		{"all ready", armed("snapset.prepared kill"), ""},
		{"all of one instant, not yet a set", armed("snapset.still kill"), ""},
		{"lvcreate goes on alone", armed("command.lvcreate.started kill"), ""},
		{"second lvcreate goes on alone", armed("command.lvcreate.started#2 kill"), ""},
		{"with lvcreate, at its start", armed("command.lvcreate.started groupkill"), ""},
		{"with lvcreate, while it makes the COW volume", insideCreate("vg00-dat_snap"), ""},
		{"with lvcreate, while it changes the origin's table", insideCreate("vg00-dat-real"), "d12"},
		{"with the second lvcreate, while it changes the origin's table", insideCreate("vg00-pccehr-real"), ""},
		{"between the snapshots", armed("snapset.taken kill"), ""},
		{"all taken", armed("snapset.taken#2 kill"), ""},
	}
	before, mapped := g.run(t, devices), g.run(t, tables)
	g.count(t, "/dat", "/pccehr")
	for _, m := range moments {
		if m.on != g.lab && !*torture {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			g.run(t, "rm -f /run/killed; systemctl is-active counter")
			r := g.fails(t, m.words+takeBoth, "interrupted")
			n := g.run(t, "cat /dat/counter")
			g.eventually(t, "the next write", "[ $(cat /dat/counter) != "+n+" ]", freezeLimit*time.Second)
			g.unchanged(t, before)
			if now := g.run(t, tables); now != mapped {
				t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
			}
			worst := g.number(t, "cat /run/counter.worst")
			if worst > freezeLimit*1000 {
				t.Errorf("writes waited %d ms, longer than the freeze limit", worst)
			}
			t.Logf("killed (%s): %q; longest write so far %d ms; nothing suspended, nothing left", g.run(t, "cat /run/killed 2>/dev/null || echo journey alone"), r.msg(), worst)
		})
	}
	g.ok(t, takeBoth)
	g.ok(t, "lvm_snapshot state=absent")
	g.unchanged(t, before)
	t.Log("after all of them the next set was taken and removed")
}

// TestFreezeLimit has the journey itself hang while everything stands still.
func TestFreezeLimit(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	hung := g.start(t, armed("instant.held hang")+"lvm_snapshot volumes=/dat,/pccehr freeze_timeout=5")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	g.run(t, "timeout 60 dd if=/dev/zero of=/dat/probe count=1 conv=fsync status=none && timeout 60 dd if=/dev/zero of=/pccehr/probe count=1 conv=fsync status=none; ok=$?; rm -f /dat/probe /pccehr/probe; "+goOn+"; exit $ok")
	if r := hung.result(t); r.code() != "freeze_timeout" {
		t.Errorf("the result is %v", r)
	}
	g.unchanged(t, before)
	if now := g.run(t, tables); now != mapped {
		t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
	}
	t.Log("with a journey that hung in the middle, writes went on at the limit of 5 s; it then gave up its set")
}

// TestOutlivesItsCaller drops the ssh connection of a module that waits, or kills the module alone: what was begun is
// brought to its end all the same, and the same call again has its result.
func TestOutlivesItsCaller(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before := g.run(t, devices)
	calls := []struct {
		module, words, place string
		kill                 bool   // the module; else the connection is dropped
		on                   string // which guest plays it also without -torture
	}{
		{"lvm_snapshot", takeBoth, "snapset.still", false, "d12"},
		{"lvm_snapshot", takeBoth, "snapset.still", true, ""},
		{"lvm_merge", rollBoth + " wait=true", unmounted, true, ""},
		{"lvm_merge", rollBoth + " wait=true", unmounted, false, ""},
		{"snap_backup", backUp() + repositories["mirror"], "backup.mounted", true, ""},
		{"snap_backup", backUp() + repositories["mirror"], "backup.mounted", false, ""},
	}
	g.scratch(t, makeRepositories, "lvm_snapshot state=absent >/dev/null; "+removeRepositories)
	for _, call := range calls {
		if call.on != g.lab && !*torture {
			continue
		}
		if call.module == "lvm_merge" {
			g.ok(t, takeBoth)
		}
		c := g.start(t, armed(call.place+" hang")+call.words)
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		if call.kill {
			g.run(t, "pkill -KILL -x "+call.module)
			_ = c.cmd.Wait()
		} else {
			c.drop(t)
		}
		g.run(t, goOn)
		r := g.ok(t, call.words)
		switch call.module {
		case "lvm_snapshot":
			if n, _ := r["snapshots"].([]any); len(n) != 2 {
				t.Errorf("the set has %d members: %v", len(n), r)
			}
			g.ok(t, "lvm_snapshot state=absent")
		case "lvm_merge":
			if r["state"] != "merged" {
				t.Errorf("the rollback did not come to its end: %v", r)
			}
			g.run(t, active)
		case "snap_backup":
			g.nothingLeft(t)
		}
		g.unchanged(t, before)
		t.Logf("%s, module killed: %v, else its connection dropped: it was brought to its end; the same call again: %s", call.module, call.kill, r.msg())
	}
}

// TestPowerCutWhileTaking cuts the power while a set is taken: what was made of it is found and removed by the next run.
func TestPowerCutWhileTaking(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices)
	for _, place := range []string{"snapset.taken", "instant.prepare#2", "instant.held", "instant.resumed",
		"snapset.still"} {
		t.Run(place, func(t *testing.T) {
			c := g.start(t, armed(place+" hang")+takeBoth)
			g.eventually(t, "the failpoint", atPlace, reachLimit)
			c.drop(t)
			g.cut(t)
			g.run(t, active)
			if r := g.ok(t, takeBoth); r["changed"] != true || len(r.rows("snapshots")) != 2 {
				t.Errorf("the same task after the boot: %v", r)
			}
			g.ok(t, "lvm_snapshot state=absent")
			g.unchanged(t, before)
			t.Logf("power cut at %q: the next run removed what was made, and took the set", place)
		})
	}
}

// TestKilledWhileRemoving kills the journey that removes a set, and those that extend and mount it, also together with
// LVM's command: the next run brings it to its end, and nothing is suspended before.
func TestKilledWhileRemoving(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices+"; cat /proc/self/mountinfo")
	g.ok(t, takeBoth)
	mounted := takeBoth + " state=mounted"
	const absent = "lvm_snapshot state=absent"
	for _, c := range []struct{ place, words string }{
		{"snapshot.extending kill", "lvm_snapshot size=300m"},
		{"command.lvextend.started groupkill", "lvm_snapshot size=400m"},
		{"snapshot.mounting kill", mounted},
		{"snapshot.removing kill", absent},
		{"command.lvremove.started kill", absent},
		{"command.lvremove.started groupkill", absent},
	} {
		if strings.HasPrefix(c.place, "command.lvremove") {
			g.ok(t, mounted)
		}
		interruptedResult(t, g.module(t, armed(c.place)+c.words))
		g.run(t, writesGoOn)
		g.ok(t, c.words)
		t.Logf("killed at %q: the same task again is brought to its end", c.place)
	}
	if now := g.run(t, devices+"; cat /proc/self/mountinfo"); now != before {
		t.Errorf("volumes, devices and mounts before:\n%s\nand now:\n%s", before, now)
	}
}

// TestOnlyMountPointsAreFrozen names a directory of the file system instead of its mount point, and one on the root.
func TestOnlyMountPointsAreFrozen(t *testing.T) {
	g := guestFor(t)
	before := g.run(t, devices)
	r := g.fails(t, "lvm_snapshot volumes=/dat/postgresql,/srv,/pccehr", "bad_arguments")
	g.unchanged(t, before)
	t.Logf("refused: %s", r.msg())
}

// TestOneSetOfAName takes a second set while the first is there.
func TestOneSetOfAName(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	before := g.run(t, devices)
	t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent"); g.unchanged(t, before) })
	id := g.ok(t, takeBoth)["id"]
	r := g.ok(t, takeBoth)
	if r["changed"] != false || r["id"] != id {
		t.Errorf("the second run: %v", r)
	}
	g.fails(t, "lvm_snapshot volumes=/dat", "set_differs")
	g.ok(t, "lvm_snapshot name=second volumes=/dat")
	g.ok(t, "lvm_snapshot name=second state=absent")
	t.Log("the same set again changes nothing; another one of the name is refused; one of another name is taken beside it")
}
