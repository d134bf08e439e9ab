//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// rollBackBoth is the command line of the rollback that is interrupted.
const rollBackBoth = "lvm_merge services=pccehr,postgresql"

// settleLimit is the longest time until a server has settled what an interrupted run has left.
const settleLimit = 6 * time.Minute

// noteStarts has the application on /pccehr and PostgreSQL write down at each start what both volumes hold: they must
// never start on volumes of different times. Each volume has a marker, which is "kept" when the set is taken and "lost"
// after that.
const noteStarts = `for unit in pccehr.service postgresql@.service; do
mkdir -p /etc/systemd/system/$unit.d && cat >/etc/systemd/system/$unit.d/watched.conf <<'UNIT'
[Unit]
RequiresMountsFor=/dat /pccehr
[Service]
ExecStartPre=+/bin/sh -c 'echo $$(cat /dat/marker /pccehr/marker) >>/var/log/starts; sync /var/log/starts'
UNIT
done
systemctl daemon-reload; rm -f /var/log/starts; sync`

const stopNotingStarts = `rm -rf /etc/systemd/system/pccehr.service.d /etc/systemd/system/postgresql@.service.d \
/var/log/starts /dat/marker /pccehr/marker /dat/bulk /pccehr/bulk; systemctl daemon-reload`

// takeAndHarm takes the set and changes enough on both volumes for a merge of some seconds.
const takeAndHarm = `echo kept >/dat/marker; echo kept >/pccehr/marker; sync
lvm_snapshot volumes=/dat,/pccehr >/dev/null &&
echo lost >/dat/marker && echo lost >/pccehr/marker && head -c 8M /dev/urandom | tee /dat/bulk >/pccehr/bulk; sync`

// An interruption is a place at which a rollback is interrupted.
type interruption struct {
	name      string // of a failpoint, or betweenMerges
	undone    bool   // nothing is merged yet, so the rollback is undone
	waits     bool   // the rollback is called with wait=true, else it would have answered before this place
	killsAll  bool   // not the run alone is killed, but all that it has started, too, as by a power cut
	eitherWay bool   // chance decides whether LVM has begun to merge, so the rollback is undone, or it goes on
	unguarded bool   // there is no boot guard yet, so after a power cut the journal entry waits for the next run
}

const (
	atUnmounted   = "rollback.unmounted"    // all volumes are unmounted
	atGuardFiles  = "rollback.guard.file#5" // the guard's units exist, and the first of the files that require them
	betweenMerges = "between the merges"    // LVM has begun to merge one member and not the other
)

// interruptions are in the order of a rollback's steps. After those at which a rollback is undone the set is still
// there for the next one.
var interruptions = []interruption{
	{name: "rollback.checked", undone: true, unguarded: true},
	{name: atGuardFiles, undone: true},
	{name: "rollback.stopping", undone: true},
	{name: "rollback.unmounting", undone: true},
	{name: atUnmounted, undone: true},
	{name: "rollback.merging", undone: true},
	{name: "command.lvconvert.started", killsAll: true, eitherWay: true},
	{name: "command.lvconvert.started", eitherWay: true},
	{name: betweenMerges},
	{name: "rollback.mounting"},
	{name: "rollback.starting"},
	{name: "rollback.started"},
	{name: "rollback.merged", waits: true},
}

func (p interruption) String() string {
	if p.killsAll {
		return "with " + p.name
	}
	return p.name
}

// isUndone says whether a rollback that was interrupted here is undone. If chance decides, it waits until the guest has
// settled, and looks.
func (p interruption) isUndone(t *testing.T, g guest) bool {
	t.Helper()
	if !p.eitherWay {
		return p.undone
	}
	g.eventually(t, "running services on volumes of one time",
		`test "$(cat /dat/marker /pccehr/marker | uniq | wc -l)" = 1 && `+allActive, settleLimit)
	return g.run(t, "cat /dat/marker") == "lost"
}

// killed is one of the two ways to interrupt a rollback. The other one is a power cut.
const killed = "killed"

// call is the command line of the rollback that is interrupted here.
func (p interruption) call() string {
	if p.waits {
		return rollBackBoth + " wait=true"
	}
	return rollBackBoth
}

// betweenMergesWatcher is a Python program that asks device-mapper for the targets of both origins (DM_TABLE_STATUS,
// linux/dm-ioctl.h) until one of them merges and the other does not. Then it stops lvconvert, and writes the run's
// control group to /run/rewind/stopped. It does not stop LVM's pollers of earlier merges, which lead sessions of their
// own. It starts no program meanwhile, because that takes as long as the moment that it waits for. It comes before all
// other processes (sched(7)), and leaves the server one processor: a second one could run lvconvert while the processor
// of the watcher stands still, as an emulated one does on a busy machine.
const betweenMergesWatcher = `import fcntl, glob, os, signal, struct, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
def processors(online):
    for path in glob.glob("/sys/devices/system/cpu/cpu*/online"):
        open(path, "w").write(online)
processors("0")
control = os.open("/dev/mapper/control", os.O_RDWR)
def merges(name):
    buf = bytearray(16384)
    struct.pack_into("=5I", buf, 0, 4, 0, 0, len(buf), 312)
    buf[48:48 + len(name)] = name
    fcntl.ioctl(control, 0xC138FD0C, buf)
    start = struct.unpack_from("=I", buf, 16)[0]
    return buf[start + 24:start + 40].rstrip(b"\0") == b"snapshot-merge"
while merges(b"vg00-dat") == merges(b"vg00-pccehr"):
    time.sleep(0.0005)
for group in glob.glob("/sys/fs/cgroup/system.slice/rewind-2*.service"):
    for pid in map(int, open(group + "/cgroup.procs").read().split()):
        if open(f"/proc/{pid}/comm").read() == "lvm\n" and os.getsid(pid) != pid:
            os.kill(pid, signal.SIGSTOP)
            open("/run/rewind/stopped", "w").write(group)
processors("1")
`

// stopBetweenMerges is shell text that stops lvconvert between the members. It is put before a module's command line.
var stopBetweenMerges = "rm -f /run/rewind/failpoint*; python3 -c " + quote(betweenMergesWatcher) + " & "

// stopAt starts a rollback and returns when the run is stopped at a place.
func (g guest) stopAt(t *testing.T, p interruption) *backgroundCall {
	t.Helper()
	if p.name != betweenMerges {
		c := g.start(t, withFailpoint(p.name+" hang")+p.call())
		g.eventually(t, p.name, failpointReached, reachLimit)
		return c
	}
	c := g.start(t, stopBetweenMerges+rollBackBoth)
	g.eventually(t, p.name, "test -s /run/rewind/stopped", reachLimit)
	if n := g.run(t, "dmsetup table | grep -c snapshot-merge; true"); n != "1" {
		t.Errorf("lvconvert was stopped with %s members merging, not between the two", n)
	}
	return c
}

// checkVolumesHold waits until both volumes have the given marker and the services run. It fails the test if a service
// has ever started while the volumes had different markers.
func (g guest) checkVolumesHold(t *testing.T, marker string) {
	t.Helper()
	g.eventually(t, "both volumes with "+marker+" and running services",
		"test \"$(cat /dat/marker /pccehr/marker | uniq)\" = "+marker+" && "+
			allActive+" && psql -Atd dat -c 'select 1'", settleLimit)
	if mix := g.run(t, "grep -vxE 'kept kept|lost lost' /var/log/starts; true"); mix != "" {
		t.Errorf("a service started on volumes of different times: %s", mix)
	}
}

// checkTidy fails the test if a rollback has left a boot guard, an unfinished journal entry, or a suspended device.
func (g guest) checkTidy(t *testing.T) {
	t.Helper()
	left := g.run(t, `find /etc/systemd/system -name '*rewind*'
grep -l '"outcome": ""' /var/lib/rewind/journal/*
dmsetup info -c --noheadings -o name,suspended | grep -i :suspended; true`)
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// checkResumed fails the test unless the server settles an interrupted rollback by itself. If the rollback was not
// undone, it also makes the same call again, after which both volumes have the data of the set. It returns whether the
// rollback was undone; then the set is still there.
func (g guest) checkResumed(t *testing.T, p interruption) (undone bool) {
	t.Helper()
	if p.isUndone(t, g) {
		g.checkVolumesHold(t, "lost")
		if p.unguarded {
			g.ok(t, "lvm_snapshot volumes=/dat,/pccehr")
		}
		g.checkTidy(t)
		return true
	}
	g.checkVolumesHold(t, "kept")
	g.ok(t, rollBackBoth+" wait=true")
	g.checkVolumesHold(t, "kept")
	g.checkTidy(t)
	return false
}

// interruptEach interrupts a rollback at each place, or without -torture only at the place with the name always, and
// checks what the server makes of it. The function strike starts the rollback and interrupts it; how says in which way.
func (g guest) interruptEach(t *testing.T, how, always string, strike func(*testing.T, interruption)) {
	// The set is removed at the end, because the last rollback may have been undone.
	g.prepare(t, noteStarts, "lvm_snapshot state=absent >/dev/null; "+stopNotingStarts)
	ready := false // whether the set is there, and both volumes are changed
	for _, p := range interruptions {
		if !*torture && p.name != always || p.killsAll && how != killed {
			continue
		}
		t.Run(p.String(), func(t *testing.T) {
			if !ready {
				g.run(t, takeAndHarm)
			}
			strike(t, p)
			undone := g.checkResumed(t, p)
			ready = undone && !t.Failed()
			outcome := "both volumes have the data of the set"
			if undone {
				outcome = "nothing was rolled back"
			}
			t.Logf("%s at %q: %s, and the services run", how, p, outcome)
		})
		if t.Failed() {
			return // the next place would begin with a server in an unknown state
		}
	}
}

// TestKilledAtEveryStep kills the run of a rollback at each of its steps.
func TestKilledAtEveryStep(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.interruptEach(t, killed, atUnmounted, func(t *testing.T, p interruption) {
		if p.name == betweenMerges {
			c := g.stopAt(t, p)
			g.run(t, "echo 1 >$(cat /run/rewind/stopped)/cgroup.kill; rm /run/rewind/stopped")
			checkInterrupted(t, c.result(t))
			return
		}
		action := " kill"
		if p.killsAll {
			action = " groupkill"
		}
		checkInterrupted(t, g.module(t, withFailpoint(p.name+action)+p.call()))
	})
}

// TestInterruptedOnTheWayBack has a snapshot overflow while the services stop, so that the run undoes the rollback, and
// interrupts it while it does so.
func TestInterruptedOnTheWayBack(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, noteStarts+`
cat >/etc/systemd/system/pccehr.service.d/flood.conf <<'UNIT'
[Service]
ExecStopPost=/bin/sh -c '`+overflowPccehr+`'
UNIT
systemctl daemon-reload; echo lost >/dat/marker; echo lost >/pccehr/marker; sync`,
		"lvm_snapshot state=absent >/dev/null; "+stopNotingStarts)
	const take = `lvm_snapshot volumes='["/dat",{"vg":"vg00","lv":"pccehr","size":"8m"}]'`
	strikes := []struct {
		name   string
		strike func()
	}{
		{"killed at rollback.undoing", func() {
			checkInterrupted(t, g.module(t, withFailpoint("rollback.undoing kill")+rollBackBoth))
		}},
		{"killed at rollback.undone", func() {
			checkInterrupted(t, g.module(t, withFailpoint("rollback.undone kill")+rollBackBoth))
		}},
		{"power cut at rollback.undoing", func() {
			c := g.start(t, withFailpoint("rollback.undoing hang")+rollBackBoth)
			g.eventually(t, "the failpoint", failpointReached, reachLimit)
			c.dropConnection(t)
			g.cutPower(t)
		}},
	}
	for _, s := range strikes {
		t.Run(s.name, func(t *testing.T) {
			g.ok(t, take)
			s.strike()
			g.checkVolumesHold(t, "lost")
			g.fails(t, rollBackBoth, "snapshot_invalid")
			g.checkVolumesHold(t, "lost")
			g.checkTidy(t)
			g.ok(t, "lvm_snapshot state=absent")
			t.Logf("%s: nothing was rolled back, the services run", s.name)
		})
	}
}

// checkInterrupted fails the test unless the result is that of a run that was killed.
func checkInterrupted(t *testing.T, r result) {
	t.Helper()
	if r.code() != "interrupted" {
		t.Errorf("the result of a killed run is %v", r)
	}
}

// TestPowerCutAtEveryStep cuts the power at each step of a rollback.
func TestPowerCutAtEveryStep(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.interruptEach(t, "power cut", betweenMerges, func(t *testing.T, p interruption) {
		c := g.stopAt(t, p)
		c.dropConnection(t)
		g.cutPower(t)
	})
}

// disableLvmpolld configures LVM so that lvconvert starts a poller of its own for each merge, in the run's control
// group.
const disableLvmpolld = `cp -a /etc/lvm/lvm.conf /run/lvm.conf
sed -i 's/^.*use_lvmpolld *=.*/use_lvmpolld = 0/' /etc/lvm/lvm.conf; lvmconfig global/use_lvmpolld`

const restoreLVMConf = `cp -a /run/lvm.conf /etc/lvm/lvm.conf`

// stopPollers is shell text that stops these pollers as soon as there is one. A poller is a process lvm that leads a
// session of its own (proc(5)). The text is put before a module's command line.
const stopPollers = `mkdir -p /run/rewind; ( cd /sys/fs/cgroup/system.slice; until [ -e /run/rewind/stopped ]; do
for f in rewind-2*.service/cgroup.procs; do while read -r p; do
read -r pid comm state parent group session rest </proc/$p/stat && [ "$comm" = "(lvm)" ] && [ $session = $pid ] &&
kill -STOP $pid && echo $pid >>/run/rewind/stopped; done <$f; done
done 2>/dev/null ) & `

// TestPollerKilled kills LVM's poller while the volumes merge, and in some cases the run, too.
func TestPollerKilled(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.run(t, noteStarts)
	t.Cleanup(func() { g.run(t, stopNotingStarts) })
	killDaemon := func(t *testing.T) { g.run(t, "systemctl kill -s KILL lvm2-lvmpolld.service") }
	cases := []struct {
		name   string
		strike func(t *testing.T)
	}{
		{"lvmpolld", func(t *testing.T) {
			g.ok(t, rollBackBoth)
			killDaemon(t)
		}},
		{"the journey and lvmpolld", func(t *testing.T) {
			checkInterrupted(t, g.module(t, withFailpoint("rollback.started kill")+rollBackBoth))
			killDaemon(t)
		}},
		{"the journey while its own poller is stuck, then that", func(t *testing.T) {
			g.run(t, disableLvmpolld)
			t.Cleanup(func() { g.run(t, restoreLVMConf) })
			c := g.start(t, stopPollers+withFailpoint("rollback.mounting hang")+rollBackBoth)
			g.eventually(t, "the poller and the failpoint", "test -e /run/rewind/stopped && "+failpointReached, reachLimit)
			// The failpoint is removed, because settling would hang at it, too.
			g.run(t, "systemctl kill -s KILL --kill-who=main 'rewind-2*'; "+releaseFailpoint)
			checkInterrupted(t, c.result(t))
			g.checkVolumesHold(t, "kept")
			g.run(t, "kill -KILL $(cat /run/rewind/stopped)")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g.run(t, takeAndHarm)
			c.strike(t)
			g.checkVolumesHold(t, "kept")
			g.ok(t, rollBackBoth+" wait=true")
			g.checkTidy(t)
			if left := strings.Join(fields(g.run(t, "lvs -a --noheadings -o lv_name vg00")), " "); left != "dat pccehr" {
				t.Errorf("left in vg00: %s", left)
			}
			t.Logf("killed %s: the rollback came to its end all the same", c.name)
		})
	}
}
