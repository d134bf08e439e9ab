//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// third is a volume in the other group, mounted at /third.
const third = `lvcreate -qqy -L 300M -n third vg01 && mkfs.ext4 -q /dev/vg01/third && mkdir -p /third && mount /dev/vg01/third /third`

const noThird = `umount /third; lvremove -qqy vg01; rmdir /third`

// three is a set of three volumes in two groups; the second one's snapshot is a small one.
const three = `lvm_snapshot volumes='["/dat",{"vg":"vg00","lv":"pccehr","size":"8m"},"/third"]'`

// overflowPccehr writes more to /pccehr than the small snapshot can keep.
const overflowPccehr = `head -c 24M /dev/urandom >/pccehr/bulk; sync; rm /pccehr/bulk`

// invocations names this very run of each service: a service that was stopped and started has another id.
const invocations = `systemctl show -p InvocationID --value pccehr postgresql 'postgresql@*'`

// TestAllOrNothing has one member of three spoil the whole set, before and during the rollback.
func TestAllOrNothing(t *testing.T) {
	g := guestFor(t)
	g.run(t, third)
	t.Cleanup(func() { g.run(t, noThird) })
	before := g.run(t, devices)

	t.Run("a snapshot overflowed before", func(t *testing.T) {
		tortured(t)
		t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent") })
		g.ok(t, three)
		g.run(t, overflowPccehr)
		running, state := g.run(t, invocations), g.run(t, devices)
		r := g.fails(t, rollBoth, "snapshot_invalid")
		g.unchanged(t, state)
		g.names(t, r, "vg00/pccehr_snap")
		if g.run(t, invocations) != running {
			t.Error("services were stopped")
		}
		t.Logf("the second of three overflowed: nothing changed, no service stopped: %s", r.msg())
	})

	t.Run("a snapshot overflows while the services stop", func(t *testing.T) {
		playedOn(t, "d12")
		t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent") })
		g.ok(t, three)
		c := g.start(t, armed("rollback.stopping hang")+rollBoth)
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		g.run(t, "echo new >/dat/new; echo new >/third/new; "+overflowPccehr+"; "+goOn)
		r := c.result(t)
		if r.code() != "snapshot_invalid" {
			t.Fatalf("the result is %v", r)
		}
		g.names(t, r, "vg00/pccehr_snap")
		g.run(t, "cat /dat/new /third/new && rm /dat/new /third/new && "+active+" && ! dmsetup table | grep snapshot-merge")
		g.tidy(t)
		t.Logf("overflowed after the services' stop began: nothing merged, services back: %s", r.msg())
	})

	t.Run("another set would overflow", func(t *testing.T) {
		tortured(t)
		t.Cleanup(func() { g.ok(t, "lvm_snapshot state=absent"); g.ok(t, "lvm_snapshot name=small state=absent") })
		g.ok(t, "lvm_snapshot volumes=/dat,/pccehr,/third")
		g.run(t, overflowPccehr)
		g.ok(t, "lvm_snapshot name=small volumes=/pccehr size=8m")
		running, state := g.run(t, invocations), g.run(t, devices)
		r := g.fails(t, rollBoth, "no_space")
		g.unchanged(t, state)
		g.names(t, r, "vg00/pccehr_small")
		if g.run(t, invocations) != running {
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
		g.names(t, r, "vg01")
		g.unchanged(t, full)
		t.Logf("no room for the third: no snapshot of any: %s", r.msg())
	})

	t.Run("room for the third snapshot taken away meanwhile", func(t *testing.T) {
		playedOn(t, "d13")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg01/full") })
		c := g.start(t, armed("snapshot.taking hang")+"lvm_snapshot volumes=/dat,/pccehr,/third")
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		g.run(t, "lvcreate -qqy -l 100%FREE -n full vg01")
		full := g.run(t, devices)
		g.run(t, goOn)
		r := c.result(t)
		if r.code() != "no_space" {
			t.Errorf("the result is %v", r)
		}
		g.unchanged(t, full)
		t.Logf("the room for the third went away after the look: the two taken were removed: %s", r.msg())
	})
	g.unchanged(t, before)
}

// names fails the test unless a message names what it is about.
func (g guest) names(t *testing.T, r result, what string) {
	t.Helper()
	if !strings.Contains(r.msg(), what) {
		t.Errorf("the message does not name %s: %s", what, r.msg())
	}
}
