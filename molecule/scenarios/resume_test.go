//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// rollBoth is the rollback that is interrupted.
const rollBoth = "lvm_merge services=pccehr,postgresql"

// settled is the time in which a server comes to rest after an interruption.
const settled = 6 * time.Minute

// watched has the application on /pccehr and PostgreSQL note at each of their starts what both volumes hold: they must
// never be started on a mix. Each volume has a marker, "kept" when the set is taken and "lost" afterwards.
const watched = `for unit in pccehr.service postgresql@.service; do
mkdir -p /etc/systemd/system/$unit.d && cat >/etc/systemd/system/$unit.d/watched.conf <<'UNIT'
[Unit]
RequiresMountsFor=/dat /pccehr
[Service]
ExecStartPre=+/bin/sh -c 'echo $$(cat /dat/marker /pccehr/marker) >>/var/log/starts; sync /var/log/starts'
UNIT
done
systemctl daemon-reload; rm -f /var/log/starts; sync`

const unwatched = `rm -rf /etc/systemd/system/pccehr.service.d /etc/systemd/system/postgresql@.service.d /var/log/starts /dat/marker /pccehr/marker /dat/bulk /pccehr/bulk; systemctl daemon-reload`

// takeAndHarm takes the set and changes both volumes, enough for a merge that lasts some seconds.
const takeAndHarm = `echo kept >/dat/marker; echo kept >/pccehr/marker; sync; lvm_snapshot volumes=/dat,/pccehr >/dev/null &&
echo lost >/dat/marker && echo lost >/pccehr/marker && head -c 8M /dev/urandom | tee /dat/bulk >/pccehr/bulk; sync`

// A place is where a rollback is interrupted.
type place struct {
	name string // of a failpoint; or betweenMerges
	back bool   // nothing is merged yet: the way is back
	wait bool   // the rollback waits for its merges, or it would have answered before
	with bool   // all that it started is killed with it, as by a power cut
	open bool   // whether LVM has begun to merge by then is chance: the way is back, or on
	bare bool   // there is no boot guard yet: after a power cut the record of a rollback that touched nothing waits for the next run
}

// The places of the runs without -torture.
const (
	unmounted     = "rollback.unmounted"    // the last one whose way is back
	guarding      = "rollback.guard.file#5" // the guard's units are there, and the first of the files that require them
	betweenMerges = "between the merges"    // LVM has begun to merge one member and not the other
)

// places are in the order of the journey. Those whose way is back come first and leave the set for the next one.
var places = []place{
	{name: "rollback.checked", back: true, bare: true},
	{name: guarding, back: true},
	{name: "rollback.stopping", back: true},
	{name: "rollback.unmounting", back: true},
	{name: unmounted, back: true},
	{name: "rollback.merging", back: true},
	{name: "command.lvconvert.started", with: true, open: true},
	{name: "command.lvconvert.started", open: true},
	{name: betweenMerges},
	{name: "rollback.mounting"},
	{name: "rollback.starting"},
	{name: "rollback.started"},
	{name: "rollback.merged", wait: true},
}

func (p place) String() string {
	if p.with {
		return "with " + p.name
	}
	return p.name
}

// turnedBack says whether a rollback that was interrupted here is turned back; g has come to rest.
func (p place) turnedBack(t *testing.T, g guest) bool {
	t.Helper()
	if !p.open {
		return p.back
	}
	g.eventually(t, "running services on volumes of one time",
		`test "$(cat /dat/marker /pccehr/marker | uniq | wc -l)" = 1 && `+active, settled)
	return g.run(t, "cat /dat/marker") == "lost"
}

// killed is how the journey alone ends, or that and all that it started.
const killed = "killed"

// words are those of the rollback that is interrupted here.
func (p place) words() string {
	if p.wait {
		return rollBoth + " wait=true"
	}
	return rollBoth
}

// watcher asks device-mapper (DM_TABLE_STATUS, linux/dm-ioctl.h) for the targets of both origins until one of them merges
// and the other does not, and stops lvconvert then. It notes the journey's control group. LVM's pollers of earlier merges,
// which lead sessions of their own, are not meant. Nothing is started meanwhile: that takes as long as what is waited for.
const watcher = `import fcntl, glob, os, signal, struct
control = os.open("/dev/mapper/control", os.O_RDWR)
def merges(name):
    buf = bytearray(16384)
    struct.pack_into("=5I", buf, 0, 4, 0, 0, len(buf), 312)
    buf[48:48 + len(name)] = name
    fcntl.ioctl(control, 0xC138FD0C, buf)
    start = struct.unpack_from("=I", buf, 16)[0]
    return buf[start + 24:start + 40].rstrip(b"\0") == b"snapshot-merge"
while merges(b"vg00-dat") == merges(b"vg00-pccehr"):
    pass
for group in glob.glob("/sys/fs/cgroup/system.slice/rewind-2*.service"):
    for pid in map(int, open(group + "/cgroup.procs").read().split()):
        if open(f"/proc/{pid}/comm").read() == "lvm\n" and os.getsid(pid) != pid:
            os.kill(pid, signal.SIGSTOP)
            open("/run/rewind/stopped", "w").write(group)
`

// stopBetween stops lvconvert between the members. It is put before the module's words.
var stopBetween = "rm -f /run/rewind/failpoint*; python3 -c " + quote(watcher) + " & "

// stop starts a rollback and returns when it stands still at a place.
func (g guest) stop(t *testing.T, p place) *call {
	t.Helper()
	if p.name != betweenMerges {
		c := g.start(t, armed(p.name+" hang")+p.words())
		g.eventually(t, p.name, atPlace, reachLimit)
		return c
	}
	c := g.start(t, stopBetween+rollBoth)
	g.eventually(t, p.name, "test -s /run/rewind/stopped", reachLimit)
	if n := g.run(t, "dmsetup table | grep -c snapshot-merge; true"); n != "1" {
		t.Errorf("lvconvert was stopped with %s members merging, not between the two", n)
	}
	return c
}

// holds fails the test unless both volumes hold the same, the services run, and never started on anything else.
func (g guest) holds(t *testing.T, marker string) {
	t.Helper()
	g.eventually(t, "both volumes with "+marker+" and running services",
		"test \"$(cat /dat/marker /pccehr/marker | uniq)\" = "+marker+" && "+active+" && psql -Atd dat -c 'select 1'", settled)
	if mix := g.run(t, "grep -vxE 'kept kept|lost lost' /var/log/starts; true"); mix != "" {
		t.Errorf("a service started on a mix: %s", mix)
	}
}

// tidy fails the test unless a rollback left no guard, no unfinished journal entry, and no suspended device.
func (g guest) tidy(t *testing.T) {
	t.Helper()
	left := g.run(t, `find /etc/systemd/system -name '*rewind*'; grep -l '"outcome": ""' /var/lib/rewind/journal/*; dmsetup info -c --noheadings -o name,suspended | grep -i :suspended; true`)
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// resumed holds that the server came to rest by itself, and that the same task then ends with the data of the set on
// both volumes. A set that is not merged yet stays for the next place.
func (g guest) resumed(t *testing.T, p place) (back bool) {
	t.Helper()
	if p.turnedBack(t, g) {
		g.holds(t, "lost")
		if p.bare {
			g.ok(t, "lvm_snapshot volumes=/dat,/pccehr")
		}
		g.tidy(t)
		return true
	}
	g.holds(t, "kept")
	g.ok(t, rollBoth+" wait=true")
	g.holds(t, "kept")
	g.tidy(t)
	return false
}

// interrupt interrupts a rollback at each place, or without -torture at the one that is named, and holds what must come
// of it.
func (g guest) interrupt(t *testing.T, how, always string, strike func(*testing.T, place)) {
	// A place whose way is back leaves the set for the next one, and the last one may be such a place.
	g.scratch(t, watched, "lvm_snapshot state=absent >/dev/null; "+unwatched)
	ready := false
	for _, p := range places {
		if !*torture && p.name != always || p.with && how != killed {
			continue
		}
		t.Run(p.String(), func(t *testing.T) {
			if !ready {
				g.run(t, takeAndHarm)
			}
			strike(t, p)
			back := g.resumed(t, p)
			ready = back && !t.Failed()
			outcome := "the data of the set is on both volumes"
			if back {
				outcome = "nothing was rolled back"
			}
			t.Logf("%s at %q: %s, and the services run", how, p, outcome)
		})
		if t.Failed() {
			return // what follows would start from a server in an unknown state
		}
	}
}

// TestKilledAtEveryStep kills the journey at each of its steps.
func TestKilledAtEveryStep(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.interrupt(t, killed, unmounted, func(t *testing.T, p place) {
		if p.name == betweenMerges {
			c := g.stop(t, p)
			g.run(t, "echo 1 >$(cat /run/rewind/stopped)/cgroup.kill; rm /run/rewind/stopped")
			interruptedResult(t, c.result(t))
			return
		}
		action := " kill"
		if p.with {
			action = " groupkill"
		}
		interruptedResult(t, g.module(t, armed(p.name+action)+p.words()))
	})
}

// TestInterruptedOnTheWayBack has a COW fill while the services stop, and interrupts the journey that turns back.
func TestInterruptedOnTheWayBack(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, watched+`
cat >/etc/systemd/system/pccehr.service.d/flood.conf <<'UNIT'
[Service]
ExecStopPost=/bin/sh -c '`+overflowPccehr+`'
UNIT
systemctl daemon-reload; echo lost >/dat/marker; echo lost >/pccehr/marker; sync`, "lvm_snapshot state=absent >/dev/null; "+unwatched)
	const take = `lvm_snapshot volumes='["/dat",{"vg":"vg00","lv":"pccehr","size":"8m"}]'`
	strikes := []struct {
		name   string
		strike func()
	}{
		{"killed at rollback.undoing", func() {
			interruptedResult(t, g.module(t, armed("rollback.undoing kill")+rollBoth))
		}},
		{"killed at rollback.undone", func() {
			interruptedResult(t, g.module(t, armed("rollback.undone kill")+rollBoth))
		}},
		{"power cut at rollback.undoing", func() {
			c := g.start(t, armed("rollback.undoing hang")+rollBoth)
			g.eventually(t, "the failpoint", atPlace, reachLimit)
			c.drop(t)
			g.cut(t)
		}},
	}
	for _, s := range strikes {
		t.Run(s.name, func(t *testing.T) {
			g.ok(t, take)
			s.strike()
			g.holds(t, "lost")
			g.fails(t, rollBoth, "snapshot_invalid")
			g.holds(t, "lost")
			g.tidy(t)
			g.ok(t, "lvm_snapshot state=absent")
			t.Logf("%s: nothing was rolled back, the services run", s.name)
		})
	}
}

// interruptedResult holds that a killed journey is told as one.
func interruptedResult(t *testing.T, r result) {
	t.Helper()
	if r.code() != "interrupted" {
		t.Errorf("the result of a killed journey is %v", r)
	}
}

// TestPowerCutAtEveryStep cuts the power at the same places.
func TestPowerCutAtEveryStep(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.interrupt(t, "power cut", betweenMerges, func(t *testing.T, p place) {
		c := g.stop(t, p)
		c.drop(t)
		g.cut(t)
	})
}

// noDaemon has LVM leave a poller of its own behind each merge, in the journey's control group.
const noDaemon = `cp -a /etc/lvm/lvm.conf /run/lvm.conf; sed -i 's/^.*use_lvmpolld *=.*/use_lvmpolld = 0/' /etc/lvm/lvm.conf; lvmconfig global/use_lvmpolld`

const daemonAgain = `cp -a /run/lvm.conf /etc/lvm/lvm.conf`

// stuckPoller stops those pollers as soon as there is one: each an lvm that leads a session of its own (proc(5)). It is put
// before the module's words.
const stuckPoller = `mkdir -p /run/rewind; ( cd /sys/fs/cgroup/system.slice; until [ -e /run/rewind/stopped ]; do
for f in rewind-2*.service/cgroup.procs; do while read -r p; do read -r pid comm state parent group session rest </proc/$p/stat && [ "$comm" = "(lvm)" ] && [ $session = $pid ] && kill -STOP $pid && echo $pid >>/run/rewind/stopped; done <$f; done
done 2>/dev/null ) & `

// TestPollerKilled kills LVM's poller while the volumes merge, and the journey too.
func TestPollerKilled(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.run(t, watched)
	t.Cleanup(func() { g.run(t, unwatched) })
	killDaemon := func(t *testing.T) { g.run(t, "systemctl kill -s KILL lvm2-lvmpolld.service") }
	cases := []struct {
		name   string
		strike func(t *testing.T)
	}{
		{"lvmpolld", func(t *testing.T) {
			g.ok(t, rollBoth)
			killDaemon(t)
		}},
		{"the journey and lvmpolld", func(t *testing.T) {
			interruptedResult(t, g.module(t, armed("rollback.started kill")+rollBoth))
			killDaemon(t)
		}},
		{"the journey while its own poller is stuck, then that", func(t *testing.T) {
			g.run(t, noDaemon)
			t.Cleanup(func() { g.run(t, daemonAgain) })
			c := g.start(t, stuckPoller+armed("rollback.mounting hang")+rollBoth)
			g.eventually(t, "the poller and the failpoint", "test -e /run/rewind/stopped && "+atPlace, reachLimit)
			g.run(t, "systemctl kill -s KILL --kill-who=main 'rewind-2*'; "+goOn) // settling comes by that place too
			interruptedResult(t, c.result(t))
			g.holds(t, "kept")
			g.run(t, "kill -KILL $(cat /run/rewind/stopped)")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g.run(t, takeAndHarm)
			c.strike(t)
			g.holds(t, "kept")
			g.ok(t, rollBoth+" wait=true")
			g.tidy(t)
			if left := strings.Join(fields(g.run(t, "lvs -a --noheadings -o lv_name vg00")), " "); left != "dat pccehr" {
				t.Errorf("left in vg00: %s", left)
			}
			t.Logf("killed %s: the set is settled all the same", c.name)
		})
	}
}
