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

// takeBoth is the command line that takes a set, and is interrupted.
var takeBoth = fmt.Sprintf("lvm_snapshot volumes=/dat,/pccehr freeze_timeout=%d", freezeLimit)

// killOnceDeviceExists returns shell text that waits in the background until a device-mapper device exists, kills the
// whole control group of the run, and writes the names of the processes that were in it to /run/killed. It is put
// before a module's command line. It waits with shell builtins alone, because a fork takes longer than the moment that
// it waits for. The newest run is the last one in the order of the units' names.
func killOnceDeviceExists(device string) string {
	return `( until [ -e /dev/mapper/` + device + ` ]; do :; done
for unit in /sys/fs/cgroup/system.slice/rewind-2*.service; do :; done
cd "$unit"; while read -r p; do read -r c </proc/$p/comm; echo $c; done <cgroup.procs >/run/killed
echo 1 >cgroup.kill ) & `
}

// TestKilledWhileWritesWait kills the run that takes a set, at every moment at which writes to the volumes may wait.
// The writes go on before the limit, and nothing is left of the set.
func TestKilledWhileWritesWait(t *testing.T) {
	g := guestFor(t)
	type moment struct {
		name, strike string // strike is put before the command line
		on           string // the guest that plays it also without -torture
	}
	moments := []moment{
		{"nothing done yet", withFailpoint("snapshot.taking kill"), ""},
		{"all held", withFailpoint("instant.held kill"), ""},
		{"all held, with its control group", withFailpoint("instant.held groupkill"), ""},
		{"between the snapshots' starts", withFailpoint("instant.started kill"), ""},
		{"between the resumes", withFailpoint("instant.resumed kill"), "d13"},
		{"the first snapshot's table is out of use", withFailpoint("instant.prepare#2 kill"), ""},
		{"the second snapshot's header is blank", withFailpoint("instant.prepare#7 kill"), ""},
		{"all ready", withFailpoint("snapset.prepared kill"), ""},
		{"all of one instant, not yet a set", withFailpoint("snapset.still kill"), ""},
		{"lvcreate goes on alone", withFailpoint("command.lvcreate.started kill"), ""},
		{"second lvcreate goes on alone", withFailpoint("command.lvcreate.started#2 kill"), ""},
		{"with lvcreate, at its start", withFailpoint("command.lvcreate.started groupkill"), ""},
		{"with lvcreate, while it makes the COW volume", killOnceDeviceExists("vg00-dat_snap"), ""},
		{"with lvcreate, while it changes the origin's table", killOnceDeviceExists("vg00-dat-real"), "d12"},
		{"with the second lvcreate, while it changes the origin's table", killOnceDeviceExists("vg00-pccehr-real"), ""},
		{"between the snapshots", withFailpoint("snapset.taken kill"), ""},
		{"all taken", withFailpoint("snapset.taken#2 kill"), ""},
	}
	before, mapped := g.run(t, devices), g.run(t, tables)
	g.startCounter(t, "/dat", "/pccehr")
	for _, m := range moments {
		if m.on != g.lab && !*torture {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			g.run(t, "rm -f /run/killed; systemctl is-active counter")
			r := g.fails(t, m.strike+takeBoth, "interrupted")
			n := g.run(t, "cat /dat/counter")
			g.eventually(t, "the next write", "[ $(cat /dat/counter) != "+n+" ]", freezeLimit*time.Second)
			g.checkUnchanged(t, before)
			if now := g.run(t, tables); now != mapped {
				t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
			}
			worst := g.runNumber(t, "cat /run/counter.worst")
			if worst > freezeLimit*1000 {
				t.Errorf("writes waited %d ms, longer than the freeze limit", worst)
			}
			killed := g.run(t, "cat /run/killed 2>/dev/null || echo the run alone")
			t.Logf("killed (%s): %q; longest write so far %d ms; nothing suspended, nothing left", killed, r.msg(), worst)
		})
	}
	g.ok(t, takeBoth)
	g.ok(t, "lvm_snapshot state=absent")
	g.checkUnchanged(t, before)
	t.Log("after all of them the next set was taken and removed")
}

// TestFreezeLimit has the run hang while the origins are suspended. They are resumed at the limit.
func TestFreezeLimit(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	before, mapped := g.run(t, devices), g.run(t, tables)
	hung := g.start(t, withFailpoint("instant.held hang")+"lvm_snapshot volumes=/dat,/pccehr freeze_timeout=5")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, `timeout 60 dd if=/dev/zero of=/dat/probe count=1 conv=fsync status=none &&
timeout 60 dd if=/dev/zero of=/pccehr/probe count=1 conv=fsync status=none; ok=$?
rm -f /dat/probe /pccehr/probe; `+releaseFailpoint+"; exit $ok")
	if r := hung.result(t); r.code() != "freeze_timeout" {
		t.Errorf("the result is %v", r)
	}
	g.checkUnchanged(t, before)
	if now := g.run(t, tables); now != mapped {
		t.Errorf("tables and mounts before:\n%s\nand now:\n%s", mapped, now)
	}
	t.Log("writes went on at the limit of 5 s although the run hung; the run then removed its snapshots")
}

// TestOutlivesItsCaller drops the ssh connection of a module that waits for its run, or kills the module alone. The run
// comes to its end all the same, and the same call again returns its result.
func TestOutlivesItsCaller(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before := g.run(t, devices)
	calls := []struct {
		module, words, place string
		kill                 bool   // the module is killed, else its connection is dropped
		on                   string // the guest that plays it also without -torture
	}{
		{"lvm_snapshot", takeBoth, "snapset.still", false, "d12"},
		{"lvm_snapshot", takeBoth, "snapset.still", true, ""},
		{"lvm_merge", rollBackBoth + " wait=true", atUnmounted, true, ""},
		{"lvm_merge", rollBackBoth + " wait=true", atUnmounted, false, ""},
		{"snap_backup", backupCall() + repositories["mirror"], "backup.mounted", true, ""},
		{"snap_backup", backupCall() + repositories["mirror"], "backup.mounted", false, ""},
	}
	g.prepare(t, makeRepositories, "lvm_snapshot state=absent >/dev/null; "+removeRepositories)
	for _, call := range calls {
		if call.on != g.lab && !*torture {
			continue
		}
		if call.module == "lvm_merge" {
			g.ok(t, takeBoth)
		}
		c := g.start(t, withFailpoint(call.place+" hang")+call.words)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		if call.kill {
			g.run(t, "pkill -KILL -x "+call.module)
			_ = c.cmd.Wait()
		} else {
			c.dropConnection(t)
		}
		g.run(t, releaseFailpoint)
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
			g.run(t, allActive)
		case "snap_backup":
			g.checkNothingLeft(t)
		}
		g.checkUnchanged(t, before)
		t.Logf("%s, module killed: %v, else its connection dropped: its run came to its end; the same call again: %s",
			call.module, call.kill, r.msg())
	}
}

// TestPowerCutWhileTaking cuts the power while a set is taken. The next run finds what was made of the set, and removes
// it.
func TestPowerCutWhileTaking(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices)
	for _, place := range []string{"snapset.taken", "instant.prepare#2", "instant.held", "instant.resumed",
		"snapset.still"} {
		t.Run(place, func(t *testing.T) {
			c := g.start(t, withFailpoint(place+" hang")+takeBoth)
			g.eventually(t, "the failpoint", failpointReached, reachLimit)
			c.dropConnection(t)
			g.cutPower(t)
			g.run(t, allActive)
			if r := g.ok(t, takeBoth); r["changed"] != true || len(r.rows("snapshots")) != 2 {
				t.Errorf("the same task after the boot: %v", r)
			}
			g.ok(t, "lvm_snapshot state=absent")
			g.checkUnchanged(t, before)
			t.Logf("power cut at %q: the next run removed what was made, and took the set", place)
		})
	}
}

// TestKilledWhileRemoving kills the runs that extend, mount and remove a set, also together with LVM's command. Nothing
// is suspended then, and the next run brings the work to its end.
func TestKilledWhileRemoving(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices+"; cat /proc/self/mountinfo")
	g.ok(t, takeBoth)
	mounted := takeBoth + " state=mounted"
	const absent = "lvm_snapshot state=absent"
	for _, c := range []struct{ point, call string }{
		{"snapshot.extending kill", "lvm_snapshot size=300m"},
		{"command.lvextend.started groupkill", "lvm_snapshot size=400m"},
		{"snapshot.mounting kill", mounted},
		{"snapshot.removing kill", absent},
		{"command.lvremove.started kill", absent},
		{"command.lvremove.started groupkill", absent},
	} {
		if strings.HasPrefix(c.point, "command.lvremove") {
			g.ok(t, mounted)
		}
		checkInterrupted(t, g.module(t, withFailpoint(c.point)+c.call))
		g.run(t, writesSucceed)
		g.ok(t, c.call)
		t.Logf("killed at %q: the same call again comes to its end", c.point)
	}
	if now := g.run(t, devices+"; cat /proc/self/mountinfo"); now != before {
		t.Errorf("volumes, devices and mounts before:\n%s\nand now:\n%s", before, now)
	}
}

// TestOnlyMountPointsAreFrozen names a directory on a volume instead of its mount point, and one on the root file
// system. Both are refused.
func TestOnlyMountPointsAreFrozen(t *testing.T) {
	g := guestFor(t)
	before := g.run(t, devices)
	r := g.fails(t, "lvm_snapshot volumes=/dat/postgresql,/srv,/pccehr", "bad_arguments")
	g.checkUnchanged(t, before)
	t.Logf("refused: %s", r.msg())
}

// TestOneSetOfAName takes a set again, another one with the same name, which is refused, and one with another name.
func TestOneSetOfAName(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	before := g.run(t, devices)
	t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent"); g.checkUnchanged(t, before) })
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
