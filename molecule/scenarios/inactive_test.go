//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// makeInactive makes a mounted volume, and a raw one that nothing activates by itself. The raw one begins with the word
// old, and is inactive.
const makeInactive = `lvcreate -qqy -Wn -L 320M -n one vg01; lvcreate -qqy -Wn -L 64M -n raw vg01
mkfs.xfs -q -f /dev/vg01/one; mkdir -p /srv/one; mount /dev/vg01/one /srv/one
echo old | tee /srv/one/file | dd of=/dev/vg01/raw conv=fsync status=none; sync
lvchange -qq --setautoactivation n vg01/raw; udevadm settle; lvchange -qq -an vg01/raw
cp /etc/lvm/lvm.conf /root/lvm.conf.before`

const removeInactive = `cp /root/lvm.conf.before /etc/lvm/lvm.conf; rm /root/lvm.conf.before
lvm_snapshot state=absent >/dev/null; umount /srv/one; lvremove -qqy vg01; rmdir /srv/one`

// harmInactive is a script that writes to both volumes, and leaves the raw one inactive.
const harmInactive = `lvchange -qq -ay vg01/raw
echo new | tee /srv/one/file | dd of=/dev/vg01/raw conv=fsync status=none; sync
udevadm settle; lvchange -qq -an vg01/raw`

// TestRollbackOfAnInactiveVolume rolls a mounted volume back together with one that has no device. LVM would only
// record the merge of that one until something activates it.
func TestRollbackOfAnInactiveVolume(t *testing.T) {
	g := guestFor(t)
	g.prepare(t, makeInactive, removeInactive)
	g.ok(t, "lvm_snapshot volumes=/srv/one,vg01/raw size=16m")
	g.run(t, harmInactive)

	const started = "systemctl show -P ActiveEnterTimestampMonotonic pccehr"
	before := g.run(t, started)
	g.run(t, `printf 'activation { volume_list=[ "vg00", "vg01/one" ] }\n' >>/etc/lvm/lvm.conf`)
	refused := g.module(t, "lvm_merge services=pccehr")
	if !refused.failed() || !strings.Contains(refused.String(), "vg01/raw") || g.run(t, started) != before {
		t.Errorf("an activation that lvm.conf forbids: %s", refused)
	}
	g.run(t, "cp /root/lvm.conf.before /etc/lvm/lvm.conf")

	check := g.ok(t, "lvm_merge services=pccehr --check")
	r := g.ok(t, "lvm_merge services=pccehr wait=true")
	for _, warnings := range []any{check["warnings"], r["warnings"]} {
		if !strings.Contains(fmt.Sprint(warnings), "vg01/raw is inactive") {
			t.Errorf("warnings: %v", warnings)
		}
	}
	if got := g.run(t, "cat /srv/one/file; dd if=/dev/vg01/raw bs=4 count=1 status=none"); got != "old\nold" {
		t.Errorf("after the rollback: %q", got)
	}
}
