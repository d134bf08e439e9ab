//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeThird makes a volume in the other volume group and mounts it at /third.
const makeThird = `lvcreate -qqy -L 300M -n third vg01 && mkfs.ext4 -q /dev/vg01/third &&
mkdir -p /third && mount /dev/vg01/third /third`

const removeThird = `umount /third; lvremove -qqy vg01; rmdir /third`

// takeThree takes a set of three volumes in two volume groups. The second volume's snapshot has little COW space.
const takeThree = `lvm_snapshot volumes='["/dat",{"vg":"vg00","lv":"pccehr","size":"8m"},"/third"]'`

// overflowPccehr changes more on /pccehr than the small snapshot has COW space for.
const overflowPccehr = `head -c 24M /dev/urandom >/pccehr/bulk; sync; rm /pccehr/bulk`

// invocations is a script that prints an ID of each service, which changes when the service is stopped and started.
const invocations = `systemctl show -p InvocationID --value pccehr postgresql 'postgresql@*'`

// TestAllOrNothing makes one of three members fail, while the set is taken, before the rollback, or during it. Then
// nothing at all is taken or rolled back.
func TestAllOrNothing(t *testing.T) {
	g := guestFor(t)
	g.run(t, makeThird)
	t.Cleanup(func() { g.run(t, removeThird) })
	before := g.run(t, devices)

	t.Run("a snapshot overflowed before", func(t *testing.T) {
		tortured(t)
		t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent") })
		g.ok(t, takeThree)
		g.run(t, overflowPccehr)
		services, state := g.run(t, invocations), g.run(t, devices)
		r := g.fails(t, rollBackBoth, "snapshot_invalid")
		g.checkUnchanged(t, state)
		g.checkNames(t, r, "vg00/pccehr_snap")
		if g.run(t, invocations) != services {
			t.Error("services were stopped")
		}
		t.Logf("the second of three overflowed: nothing changed, no service stopped: %s", r.msg())
	})

	t.Run("a snapshot overflows while the services stop", func(t *testing.T) {
		playedOn(t, "d12")
		t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent") })
		g.ok(t, takeThree)
		c := g.start(t, withFailpoint("rollback.stopping hang")+rollBackBoth)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, "echo new >/dat/new; echo new >/third/new; "+overflowPccehr+"; "+releaseFailpoint)
		r := c.result(t)
		if r.code() != "snapshot_invalid" {
			t.Fatalf("the result is %v", r)
		}
		g.checkNames(t, r, "vg00/pccehr_snap")
		g.run(t, "cat /dat/new /third/new && rm /dat/new /third/new && "+allActive+
			" && ! dmsetup table | grep snapshot-merge")
		g.checkTidy(t)
		t.Logf("overflowed when the services had begun to stop: nothing merged, services running again: %s", r.msg())
	})

	t.Run("another set would overflow", func(t *testing.T) {
		tortured(t)
		t.Cleanup(func() {
			g.ok(t, "lvm_snapshot state=absent")
			g.ok(t, "lvm_snapshot name=small state=absent")
		})
		g.ok(t, "lvm_snapshot volumes=/dat,/pccehr,/third")
		g.run(t, overflowPccehr)
		g.ok(t, "lvm_snapshot name=small volumes=/pccehr size=8m")
		services, state := g.run(t, invocations), g.run(t, devices)
		r := g.fails(t, rollBackBoth, "no_space")
		g.checkUnchanged(t, state)
		g.checkNames(t, r, "vg00/pccehr_small")
		if g.run(t, invocations) != services {
			t.Error("services were stopped")
		}
		t.Logf("a merge that would overflow another set is refused: %s", r.msg())
	})

	t.Run("no room for the third snapshot", func(t *testing.T) {
		playedOn(t, "d12")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg01/full") })
		g.run(t, "lvcreate -qqy -l 100%FREE -n full vg01")
		full := g.run(t, devices)
		r := g.fails(t, "lvm_snapshot volumes=/dat,/pccehr,/third", "no_space")
		g.checkNames(t, r, "vg01")
		g.checkUnchanged(t, full)
		t.Logf("no room for the third: no snapshot of any: %s", r.msg())
	})

	t.Run("room for the third snapshot taken away meanwhile", func(t *testing.T) {
		playedOn(t, "d13")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg01/full") })
		c := g.start(t, withFailpoint("snapshot.taking hang")+"lvm_snapshot volumes=/dat,/pccehr,/third")
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, "lvcreate -qqy -l 100%FREE -n full vg01")
		full := g.run(t, devices)
		g.run(t, releaseFailpoint)
		r := c.result(t)
		if r.code() != "no_space" {
			t.Errorf("the result is %v", r)
		}
		g.checkUnchanged(t, full)
		t.Logf("the room for the third was taken after the check: the two that were taken are removed: %s", r.msg())
	})
	g.checkUnchanged(t, before)
}

// checkNames fails the test unless a result's message names something, such as a volume.
func (g guest) checkNames(t *testing.T, r result, what string) {
	t.Helper()
	if !strings.Contains(r.msg(), what) {
		t.Errorf("the message does not name %s: %s", what, r.msg())
	}
}
