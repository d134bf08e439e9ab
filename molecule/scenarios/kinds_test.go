//go:build lab

package scenarios

import "testing"

const kinds = `
lvcreate -qqy -L 200M -T vg01/pool 2>/dev/null; lvcreate -qqy -V 100M -T vg01/pool -n thin 2>/dev/null
lvcreate -qqy -L 64M -n safe vg00
head -c 64 /dev/urandom > /root/safe.key; chmod 600 /root/safe.key
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vg00/safe /root/safe.key
cryptsetup open --key-file /root/safe.key /dev/vg00/safe safe
cp /etc/crypttab /root/crypttab.before 2>/dev/null || touch /root/crypttab.before
mkfs.ext4 -q /dev/vg01/thin; mkfs.ext4 -q /dev/mapper/safe
mkdir -p /srv/thin /srv/safe; mount /dev/vg01/thin /srv/thin; mount /dev/mapper/safe /srv/safe
echo old > /srv/thin/file; echo old > /srv/safe/file; sync
`

const removeKinds = `
lvm_snapshot name=kinds state=absent >/dev/null 2>&1
umount /srv/thin /srv/safe; cryptsetup close safe
lvremove -qqy vg01/thin vg01/pool vg00/safe 2>/dev/null
cp /root/crypttab.before /etc/crypttab; rm -f /root/safe.key /root/crypttab.before; rmdir /srv/thin /srv/safe
! lvs --noheadings vg01 | grep .
`

// TestThinAndEncryptedInSeveralGroups takes one set of a thin volume and an encrypted thick one in two groups, rolls
// back to it and takes it again.
func TestThinAndEncryptedInSeveralGroups(t *testing.T) {
	g := theGuest
	g.scratch(t, kinds, removeKinds)
	taken := g.ok(t, "lvm_snapshot name=kinds volumes=/srv/thin,/srv/safe size=32m")
	g.run(t, "echo new > /srv/thin/file; echo new > /srv/safe/file; sync")
	before := g.run(t, dump)
	r := g.fails(t, "lvm_merge name=kinds", "no_key")
	if after := g.run(t, dump); after != before {
		t.Errorf("without a key something was changed:\n%s\nbefore:\n%s", after, before)
	}
	g.run(t, "echo 'safe /dev/vg00/safe /root/safe.key luks' >> /etc/crypttab")
	again := g.ok(t, "lvm_merge name=kinds resnapshot=true")
	got := g.run(t, `cat /srv/thin/file /srv/safe/file | tr '\n' ' '; for m in safe thin; do findmnt -no SOURCE /srv/$m; done | tr '\n' ' '
lvs --noheadings -o lv_full_name,lv_tags | grep -c rewind:set=kinds
lvs --noheadings -o transaction_id,lv_attr vg01/pool | grep -c 'twi-aot'
echo newer > /srv/thin/file; echo newer > /srv/safe/file; sync`)
	if want := "old old /dev/mapper/safe /dev/mapper/vg01-thin 2\n1"; got != want {
		t.Errorf("after the rollback: %s, want %s\n%s", got, want, again)
	}
	second := g.ok(t, "lvm_merge name=kinds wait=true")
	if got := g.run(t, "cat /srv/thin/file /srv/safe/file | tr '\\n' ' '"); got != "old old " {
		t.Errorf("after the second rollback: %q", got)
	}
	t.Logf("one instant over two groups, thin and LUKS (%v ms); refused without an unattended key: %s; rolled back, taken "+
		"again and rolled back again: %s", taken["pause_ms"], r.msg(), second.msg())
}
