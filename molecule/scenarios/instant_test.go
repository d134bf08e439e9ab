//go:build lab

package scenarios

import (
	"strconv"
	"strings"
	"testing"
)

// bothCounters reads the counter in the two snapshots of set snap and removes the set, as an administrator would.
func bothCounters(first, second string) string {
	script := `mkdir -p /mnt/1 /mnt/2; opts() { test $(blkid -o value -s TYPE $1) = xfs && echo ro,nouuid || echo ro; }
mount -o $(opts A) A /mnt/1 && mount -o $(opts B) B /mnt/2 && cat /mnt/1/counter && echo && cat /mnt/2/counter; ok=$?
umount /mnt/1 /mnt/2; lvremove -qqy A B && exit $ok`
	return strings.NewReplacer("A", "/dev/"+first+"_snap", "B", "/dev/"+second+"_snap").Replace(script)
}

// sameInstant takes a set of two volumes under the counter and fails the test if it could not have been one instant. It
// returns the pause that the result says, in milliseconds.
func (g guest) sameInstant(t *testing.T, words, first, second string) float64 {
	t.Helper()
	r := g.ok(t, "lvm_snapshot "+words)
	read := fields(g.run(t, bothCounters(first, second)))
	if len(read) != 2 {
		t.Fatalf("counters of the set: %q", read)
	}
	a, errA := strconv.ParseInt(read[0], 10, 64)
	b, errB := strconv.ParseInt(read[1], 10, 64)
	if errA != nil || errB != nil || a == 0 || a-b < 0 || a-b > 1 {
		t.Errorf("the set holds %d on %s and %d on %s: not one instant", a, first, b, second)
	}
	pause, ok := r["pause_ms"].(float64)
	if !ok || pause <= 0 {
		t.Errorf("the result says a pause of %v ms", r["pause_ms"])
	}
	return pause
}

// sets is how many are taken under the counter.
func sets() int {
	if *torture {
		return 20
	}
	return 2
}

// TestOneInstant takes sets while a writer syncs the same number to both file systems in turn.
func TestOneInstant(t *testing.T) {
	g := theGuest
	g.count(t, "/dat", "/pccehr")
	var longest float64
	for range sets() {
		longest = max(longest, g.sameInstant(t, "volumes=/dat,/pccehr", "vg00/dat", "vg00/pccehr"))
	}
	if t.Failed() {
		return
	}
	t.Logf("%d thick sets, in each both volumes within the one write in flight; longest pause told %.0f ms, longest round of the writer %s ms",
		sets(), longest, g.run(t, "cat /run/counter.worst"))
}

// thinPair makes two thin volumes in a pool on vg01, mounted, and takes them away again.
const thinPair = `lvcreate -qqy -L 900M -T vg01/pool && lvcreate -qqy -V 400M -T vg01/pool -n one && lvcreate -qqy -V 400M -T vg01/pool -n two &&
mkfs.xfs -q /dev/vg01/one && mkfs.ext4 -q /dev/vg01/two && mkdir -p /one /two && mount /dev/vg01/one /one && mount /dev/vg01/two /two`

const noThinPair = `umount /one /two; lvremove -qqy vg01/pool; rmdir /one /two`

// TestOneInstantThin does the same for thin volumes, where the kernel allows it; where it does not, the answer is no,
// and the pool is as good as before.
func TestOneInstantThin(t *testing.T) {
	g := theGuest
	g.run(t, thinPair)
	t.Cleanup(func() { g.run(t, noThinPair) })
	g.count(t, "/one", "/two")
	if g.lab == "d13" {
		for range sets() {
			g.sameInstant(t, "volumes=/one,/two", "vg01/one", "vg01/two")
		}
		t.Logf("%d thin sets, in each both volumes within the one write in flight", sets())
		return
	}
	before := g.run(t, devices)
	g.fails(t, "lvm_snapshot volumes=/one,/two", "no_single_instant")
	g.unchanged(t, before)
	g.ok(t, "lvm_snapshot volumes=/one,/two consistency=volume")
	g.run(t, bothCounters("vg01/one", "vg01/two"))
	g.unchanged(t, before)
	g.run(t, `set -- $(dmsetup status vg01-pool-tpool); case "$*" in *needs_check*|*Fail*|*" ro "*) echo "$*"; exit 1;; esac`)
	t.Log("one instant for thin volumes is refused on this kernel; the pool took snapshots of each by itself afterwards and is whole")
}
