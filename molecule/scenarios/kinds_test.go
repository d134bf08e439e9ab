//go:build lab

package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// makeKinds makes and mounts a thin volume in vg01 and an encrypted thick one in vg00.
const makeKinds = `
lvcreate -qqy -L 200M -T vg01/pool 2>/dev/null; lvcreate -qqy -V 100M -T vg01/pool -n thin 2>/dev/null
lvcreate -qqy -L 64M -n safe vg00
head -c 64 /dev/urandom > /root/safe.key; chmod 600 /root/safe.key
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vg00/safe /root/safe.key
cryptsetup open --key-file /root/safe.key --allow-discards --perf-same_cpu_crypt --perf-submit_from_crypt_cpus \
	--perf-no_read_workqueue --perf-no_write_workqueue /dev/vg00/safe safe
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

// TestThinAndEncryptedInSeveralGroups takes one set of a thin volume and an encrypted thick one in two volume groups,
// rolls back to it with resnapshot=true, and rolls back once more. Without a key for the encrypted volume it is
// refused.
func TestThinAndEncryptedInSeveralGroups(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeKinds, removeKinds)
	taken := g.ok(t, "lvm_snapshot name=kinds volumes=/srv/thin,/srv/safe size=32m")
	g.run(t, "echo new > /srv/thin/file; echo new > /srv/safe/file; sync")
	before := g.run(t, showState)
	r := g.fails(t, "lvm_merge name=kinds", "no_key")
	if after := g.run(t, showState); after != before {
		t.Errorf("without a key something was changed:\n%s\nbefore:\n%s", after, before)
	}
	g.run(t, "echo 'safe /dev/vg00/safe /root/safe.key luks' >> /etc/crypttab")
	const cryptOptions = "dmsetup table safe | cut -d ' ' -f 9-"
	optionsBefore := g.run(t, cryptOptions)
	again := g.ok(t, "lvm_merge name=kinds resnapshot=true")
	got := g.run(t, `cat /srv/thin/file /srv/safe/file | tr '\n' ' '
for m in safe thin; do findmnt -no SOURCE /srv/$m; done | tr '\n' ' '
lvs --noheadings -o lv_full_name,lv_tags | grep -c rewind:set=kinds
lvs --noheadings -o transaction_id,lv_attr vg01/pool | grep -c 'twi-aot'
echo newer > /srv/thin/file; echo newer > /srv/safe/file; sync`)
	if options := g.run(t, cryptOptions); options != optionsBefore || !strings.HasPrefix(options, "5 allow_discards ") {
		t.Errorf("the encrypted volume is open with %q, before with %q", options, optionsBefore)
	}
	if want := "old old /dev/mapper/safe /dev/mapper/vg01-thin 2\n1"; got != want {
		t.Errorf("after the rollback: %s, want %s\n%s", got, want, again)
	}
	second := g.ok(t, "lvm_merge name=kinds wait=true")
	if got := g.run(t, "cat /srv/thin/file /srv/safe/file | tr '\\n' ' '"); got != "old old " {
		t.Errorf("after the second rollback: %q", got)
	}
	var stacks []string
	info := g.ok(t, "lvm_snapshot_info")
	for _, mount := range info.rows("mounts") {
		if strings.HasPrefix(fmt.Sprint(mount["mountpoint"]), "/srv/") {
			var layers []string
			for _, layer := range result(mount).rows("stack") {
				layers = append(layers, fmt.Sprint(layer["kind"]))
			}
			stacks = append(stacks, fmt.Sprintf("%v: %s", mount["mountpoint"], strings.Join(layers, " ")))
		}
	}
	slices.Sort(stacks)
	if len(stacks) != 2 || !strings.HasPrefix(stacks[0], "/srv/safe: fs crypt lvm pv") ||
		!strings.HasPrefix(stacks[1], "/srv/thin: fs lvm") {
		t.Errorf("lvm_snapshot_info shows these stacks: %v", stacks)
	}
	if host, _ := info["host"].(map[string]any); host["usable"] != true {
		t.Errorf("lvm_snapshot_info says that Rewind cannot work on this host: %v", host)
	}
	if last, _ := info["last_rollback"].(map[string]any); last["name"] != "kinds" {
		t.Errorf("the last rollback is %v", last)
	}
	t.Logf("one instant in two volume groups, thin and LUKS (%v ms); refused without a key in crypttab: %s; rolled back, "+
		"taken again and rolled back again: %s", taken["pause_ms"], r.msg(), second.msg())
}

// TestPowerCutOnThinAndEncrypted cuts the power in a rollback of a thin volume and an encrypted one in two volume
// groups. A unit uses both. At the next boot both volumes are merging before the encrypted one is opened and both are
// mounted.
func TestPowerCutOnThinAndEncrypted(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	const unitOnBoth = `
[Unit]
RequiresMountsFor=/srv/thin /srv/safe
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo $$(cat /srv/thin/file /srv/safe/file) >>/var/log/starts; sync /var/log/starts'
[Install]
WantedBy=multi-user.target
`
	g.prepare(t, makeKinds+`
echo 'safe /dev/vg00/safe /root/safe.key luks' >>/etc/crypttab; cp /etc/fstab /root/fstab.before
printf '/dev/vg01/thin /srv/thin ext4 nofail 0 0\n/dev/mapper/safe /srv/safe ext4 nofail 0 0\n' >>/etc/fstab
`+writeUnit("rw-both.service", unitOnBoth)+"systemctl daemon-reload; systemctl -q enable --now rw-both; sync",
		`systemctl -q disable --now rw-both; rm -f /etc/systemd/system/rw-both.service /var/log/starts
cp /root/fstab.before /etc/fstab; systemctl daemon-reload
`+removeKinds)
	for _, place := range []string{"command.lvconvert.started", "rollback.merging", "rollback.mounting", atUnmounted} {
		t.Run(place, func(t *testing.T) {
			g.run(t, `lvm_snapshot name=kinds volumes=/srv/thin,/srv/safe size=32m >/dev/null &&
echo new | tee /srv/thin/file /srv/safe/file >/dev/null; sync; rm -f /var/log/starts`)
			const merge = "lvm_merge name=kinds services=rw-both"
			c := g.start(t, withFailpoint(place+" hang")+merge)
			g.eventually(t, "the failpoint", failpointReached, reachLimit)
			c.dropConnection(t)
			g.cutPower(t)
			want := "old old"
			if place == atUnmounted || place == "rollback.merging" {
				want = "new new"
			}
			if place == "command.lvconvert.started" { // it is left to chance whether LVM has begun to merge by then
				g.eventually(t, "volumes of one time",
					`test "$(cat /srv/thin/file /srv/safe/file | uniq | wc -l)" = 1 && findmnt -n /srv/safe`, settleLimit)
				want = g.run(t, "echo $(cat /srv/thin/file /srv/safe/file)")
			}
			g.eventually(t, "both volumes with "+want, `test "$(echo $(cat /srv/thin/file /srv/safe/file))" = '`+want+
				`' && systemctl -q is-active rw-both && findmnt -n /srv/safe`, settleLimit)
			if starts := g.run(t, "sort -u /var/log/starts"); starts != want {
				t.Errorf("the unit on both started on %q", starts)
			}
			g.ok(t, merge+" wait=true")
			g.checkTidy(t)
			got := g.run(t, `echo $(cat /srv/thin/file /srv/safe/file)
lvs --noheadings -o lv_attr vg01/pool | grep -c 'twi-aot'`)
			if got != "old old\n1" {
				t.Errorf("after the same call again: %q", got)
			}
			t.Logf("power cut at %q: both volumes have the set's data, and the unit never started on volumes of different "+
				"times", place)
		})
	}
}
