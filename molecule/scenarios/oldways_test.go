//go:build lab

package scenarios

import "testing"

// TestSnapshotsMadeByHand rolls back to snapshots that an administrator has made with lvcreate alone. LVM reduces their
// COW space to what the volume can need at most.
func TestSnapshotsMadeByHand(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	before, files := g.run(t, patients), g.run(t, sums)
	t.Cleanup(func() { _, _ = g.try("lvremove -qqy vg00/dat_snap vg00/pccehr_snap") })
	g.run(t, `lvcreate -L 10G -s -n dat_snap vg00/dat && lvcreate -L 10G -s -n pccehr_snap vg00/pccehr
psql -d dat -qc "delete from patient where id % 3 = 0"
find /pccehr -type f ! -name '*.log' | head -5 | xargs rm; sync`)
	if g.run(t, patients) == before {
		t.Fatal("the harm did nothing")
	}
	const merge = "lvm_merge snapshots=/dev/vg00/dat_snap,vg00/pccehr_snap services=pccehr,postgresql"
	r := g.ok(t, merge+" wait=true")
	if got := g.run(t, patients); got != before {
		t.Errorf("%s patients after the rollback, %s before", got, before)
	}
	if got := g.run(t, sums); got != files {
		t.Errorf("files after the rollback are %s, before %s", got, files)
	}
	again := g.ok(t, "lvm_merge snapshots=vg00/pccehr_snap,/dev/mapper/vg00-dat_snap")
	if again["changed"] != false || again["state"] != "merged" {
		t.Errorf("the second run, with the names written otherwise, says %s", again)
	}
	t.Logf("snapshots made by lvcreate alone: %s", r.msg())
}
