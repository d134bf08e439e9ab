//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeOverflow makes a volume with a service that writes 20 MiB on it when it is stopped.
var makeOverflow = writeUnit("rw-writer.service", `
[Service]
WorkingDirectory=/srv/small
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c 'dd if=/dev/zero of=/srv/small/big bs=1M count=20 conv=fsync'
`) + `
lvcreate -qqy -L 96M -n small vg01; mkfs.ext4 -q /dev/vg01/small; mkdir -p /srv/small; mount /dev/vg01/small /srv/small
systemctl daemon-reload; systemctl start rw-writer
`

const removeOverflow = `
dmsetup resume vg01-small_tight 2>/dev/null
systemctl stop rw-writer; lvm_snapshot name=tight state=absent >/dev/null 2>&1
umount /srv/small; lvremove -qqy vg01/small
rm -f /etc/systemd/system/rw-writer.service; systemctl daemon-reload; rmdir /srv/small
! lvs --noheadings vg01 | grep .
`

// TestOverflowIsNamed has a snapshot overflow before a rollback, and in the middle of one. It also suspends the
// snapshot.
func TestOverflowIsNamed(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeOverflow, removeOverflow)
	const set, merge = "lvm_snapshot name=tight volumes=/srv/small size=8m", "lvm_merge name=tight services=rw-writer"
	const pid = "systemctl show -p MainPID --value rw-writer"
	g.ok(t, set)
	writer := g.run(t, pid)

	g.run(t, "dmsetup suspend vg01-small_tight")
	suspended := g.callEach(t, merge, "lvm_snapshot_info name=tight")
	g.run(t, `dmsetup resume vg01-small_tight
dd if=/dev/zero of=/srv/small/fill bs=1M count=20 conv=fsync status=none; rm /srv/small/fill`)
	lost := g.callEach(t, merge, set, "lvm_snapshot_info name=tight")
	g.run(t, "dmsetup suspend vg01-small_tight")
	both := g.callEach(t, merge, "lvm_snapshot_info name=tight")
	g.run(t, "dmsetup resume vg01-small_tight")
	for _, c := range []struct {
		r                 result
		code, state, says string
	}{
		{suspended[0], "unsupported", "suspended", "suspended"},
		{lost[0], "snapshot_invalid", "invalid", "overflowed"},
		{lost[1], "snapshot_invalid", "invalid", "overflowed"},
		{both[0], "snapshot_invalid", "invalid_suspended", "overflowed"},
	} {
		named := hasRow(c.r.rows("snapshots"), map[string]any{"snapshot": "vg01/small_tight", "state": c.state})
		if c.r.code() != c.code || !named || !strings.Contains(c.r.msg(), c.says) || c.r["changed"] == true {
			t.Errorf("a snapshot that is %s: want %s, got %s", c.state, c.code, c.r)
		}
	}
	infos := map[string]result{"suspended": suspended[1], "invalid": lost[2], "invalid_suspended": both[1]}
	for state, info := range infos {
		sets := info.rows("sets")
		snapshot := map[string]any{"snapshot": "vg01/small_tight", "state": state}
		if len(sets) != 1 || sets[0]["state"] != "bad" || !hasRow(result(sets[0]).rows("snapshots"), snapshot) {
			t.Errorf("lvm_snapshot_info does not say %s: %s", state, info)
		}
	}
	if now := g.run(t, pid); now != writer {
		t.Errorf("the service was stopped for a set that had already overflowed")
	}

	replaced := g.callEach(t, set+" on_invalid=replace --check", set+" on_invalid=replace", set+" on_invalid=replace")
	if replaced[0]["changed"] != true || replaced[1]["changed"] != true ||
		replaced[2]["changed"] != false || replaced[2]["id"] != replaced[1]["id"] {
		t.Errorf("the overflowed set was not replaced once: %s", replaced)
	}
	during := g.fails(t, merge, "snapshot_invalid")
	if !strings.Contains(during.msg(), "while the services stopped") || during["changed"] == true {
		t.Errorf("a snapshot that overflowed while the services stopped: %s", during)
	}
	g.run(t, "systemctl is-active rw-writer && findmnt -n /srv/small && test -s /srv/small/big")
	t.Logf("suspended, overflowed, both, and overflowed while the services stopped: %s; each was named, nothing was "+
		"merged and the service runs; on_invalid=replace took the set anew, once", during.msg())
}

// makeFrailGroup makes a volume group of two disks, of which the second one can be broken. All snapshots and all
// metadata of thin pools are on the second disk.
const makeFrailGroup = `
modprobe dm-flakey
dmsetup create rw-sound --table "0 1000000 linear /dev/loop3 2048"
dmsetup create rw-frail --table "0 1048576 linear /dev/loop3 1048576"
udevadm settle
vgcreate -qq vg02 /dev/mapper/rw-sound /dev/mapper/rw-frail
`

const removeFrailGroup = `
dmsetup load rw-frail --table "0 1048576 linear /dev/loop3 1048576"; dmsetup resume rw-frail
vgchange -qq -an vg02; vgremove -ffqqy vg02; udevadm settle
dmsetup remove --retry rw-sound; dmsetup remove --retry rw-frail; wipefs -qa /dev/loop3
`

// setFrailTable is a script that gives the second disk another table.
func setFrailTable(table string) string {
	return "dmsetup suspend --noflush rw-frail; dmsetup load rw-frail --table " + quote(table) +
		"; dmsetup resume rw-frail\n"
}

// The tables of the second disk.
const (
	frailWhole    = "0 1048576 linear /dev/loop3 1048576"
	frailGone     = "0 1048576 error"
	frailReadOnly = "0 1048576 flakey /dev/loop3 1048576 0 600 1 error_writes"
	// With frailPartly the list of chunks in a small COW space can be read, and the chunks cannot.
	frailPartly = "0 6144 linear /dev/loop3 1048576\n6144 1042432 error"
)

// makeThick makes a thick volume on the first disk with a snapshot on the second disk, writes 12 MiB to the volume, and
// prints a checksum of what the snapshot has.
const makeThick = `lvcreate -qqy -L 64M -n thick vg02 /dev/mapper/rw-sound
head -c 16M /dev/urandom > /dev/vg02/thick; sync
sha256sum < /dev/vg02/thick; lvcreate -qqy -L 32M -s -n thick_hand vg02/thick /dev/mapper/rw-frail 2>/dev/null
head -c 12M /dev/urandom | dd of=/dev/vg02/thick bs=1M conv=notrunc,fsync status=none iflag=fullblock`

// makeThin is a script that makes a thin volume with a snapshot, in a pool of the given size whose metadata are on the
// second disk.
func makeThin(size string) string {
	return "lvcreate -qqy --config allocation/thin_pool_metadata_require_separate_pvs=1 --poolmetadataspare n " +
		"--errorwhenfull y -L " + size + ` -V 64M -n thin -T vg02/pool /dev/mapper/rw-sound /dev/mapper/rw-frail 2>/dev/null
lvcreate -qqy -s -kn -n thin_hand vg02/thin 2>/dev/null
`
}

const (
	fillThin   = "dd if=/dev/zero of=/dev/vg02/thin bs=1M count=40 oflag=direct status=none 2>/dev/null\n"
	writeThin  = "dd if=/dev/zero of=/dev/vg02/thin bs=1M count=2 oflag=direct conv=fsync status=none 2>/dev/null\n"
	removeThin = "vgchange -qq -an vg02; lvremove -ffqqy vg02/pool"
)

// TestFailedMergeIsNamed breaks the disk with the COW space before the merge, so that the merge fails in the middle.
func TestFailedMergeIsNamed(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeFrailGroup, removeFrailGroup)
	const merge, info = "lvm_merge snapshots=vg02/thick_hand services=pccehr wait=true", "lvm_snapshot_info vg=vg02"
	before := g.run(t, makeThick)
	g.run(t, setFrailTable(frailPartly))
	broken := g.callEach(t, merge, info, "lvm_snapshot name=more volumes=vg02/thick size=8m")
	failed := broken[0]
	if failed.code() != "merge_failed" || !strings.Contains(failed.msg(), "vg02/thick_hand") || failed["changed"] != true {
		t.Errorf("a merge that failed: %s", failed)
	}
	if r := broken[2]; r.code() != "merge_failed" || !strings.Contains(r.hint(), "lvchange -an vg02/thick") {
		t.Errorf("a set of a volume whose merge failed: %s", r)
	}
	g.run(t, "dmsetup suspend vg02-thick")
	suspended := g.ok(t, info)
	g.run(t, "dmsetup resume vg02-thick")
	for state, r := range map[string]result{"merge_failed": broken[1], "merge_failed_suspended": suspended} {
		shots := r.rows("unmanaged")
		snapshot := map[string]any{"snapshot": "vg02/thick_hand", "state": state}
		if !hasRow(shots, snapshot) || shots[0]["cow_used_percent"] != nil {
			t.Errorf("lvm_snapshot_info does not say %s: %s", state, r)
		}
	}
	again := g.module(t, merge)
	if again.code() != "merge_failed" {
		t.Errorf("the same call while the disk is broken: %s", again)
	}
	g.run(t, setFrailTable(frailWhole)+"lvchange -an vg02/thick && lvchange -ay vg02/thick")
	mended := g.ok(t, merge)
	if after := g.run(t, "sha256sum < /dev/vg02/thick"); after != before || mended["state"] != "merged" {
		t.Errorf("once the disk was mended and the hint followed, the volume is %s, before %s: %s", after, before, mended)
	}
	t.Logf("named by lvm_merge, lvm_snapshot and lvm_snapshot_info: %s; after the hint was followed the merge was "+
		"finished", failed.msg())
}

// TestMissingDiskAndSickPoolsAreNamed breaks the disk that thick and thin snapshots need, and fills a pool.
func TestMissingDiskAndSickPoolsAreNamed(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeFrailGroup, removeFrailGroup)
	const info, thin = "lvm_snapshot_info vg=vg02", "lvm_merge snapshots=vg02/thin_hand services=pccehr"
	const set = "lvm_snapshot name=more volumes=vg02/thin"

	g.run(t, makeThick+"\n"+setFrailTable(frailGone))
	r := g.callEach(t, info, "lvm_merge snapshots=vg02/thick_hand", "lvm_snapshot name=more volumes=vg02/thick")
	g.run(t, setFrailTable(frailWhole)+"vgchange -qq -an vg02; lvremove -ffqqy vg02/thick")
	partialSnapshot := map[string]any{"snapshot": "vg02/thick_hand", "health": "partial"}
	if !hasRow(r[0].rows("groups"), map[string]any{"vg": "vg02", "partial": true}) ||
		!hasRow(r[0].rows("unmanaged"), partialSnapshot) {
		t.Errorf("lvm_snapshot_info does not name the missing disk: %s", r[0])
	}
	for _, refused := range r[1:] {
		if refused.code() != "unsupported" || !strings.Contains(refused.msg(), "missing") ||
			!strings.Contains(refused.hint(), "lvmdevices --adddev") {
			t.Errorf("a missing disk: %s", refused)
		}
	}

	for _, c := range []struct {
		name, strike, problem string
	}{
		{"metadata cannot be written", setFrailTable(frailReadOnly) + writeThin + setFrailTable(frailWhole), "read-only"},
		{"metadata cannot be read", setFrailTable(frailGone) + writeThin + setFrailTable(frailWhole), "failed"},
		{
			"the kernel's transaction is not LVM's", "dmsetup suspend vg02-thin; " +
				"lvcreate -qqy -s -kn -n x vg02/thin 2>/dev/null; dmsetup resume vg02-thin", "transaction id",
		},
	} {
		g.run(t, makeThin("64M")+"\n("+c.strike+") || true")
		r := g.callEach(t, info, thin, set)
		g.run(t, removeThin)
		pools := result(r[0].rows("groups")[0]).rows("pools")
		if problem, _ := pools[0]["problem"].(string); !strings.Contains(problem, c.problem) {
			t.Errorf("%s: lvm_snapshot_info says of the pool %q", c.name, problem)
		}
		for _, refused := range r[1:] {
			if refused.code() != "pool_damaged" || !strings.Contains(refused.hint(), "lvmthin(7)") ||
				refused["changed"] == true {
				t.Errorf("%s: %s", c.name, refused)
			}
		}
		t.Logf("%s: %s", c.name, r[1].msg())
	}

	before := g.run(t, makeThin("32M")+"sha256sum < /dev/vg02/thin; "+fillThin+"true")
	full := g.callEach(t, info, set, thin+" wait=true", info)
	pools := result(full[0].rows("groups")[0]).rows("pools")
	if problem, _ := pools[0]["problem"].(string); !strings.Contains(problem, "no data space is left") {
		t.Errorf("a full pool: %s", full[0])
	}
	if full[1].code() != "no_space" || !strings.Contains(full[1].hint(), "lvextend vg02/pool") {
		t.Errorf("a set in a full pool: %s", full[1])
	}
	if after := g.run(t, "sha256sum < /dev/vg02/thin"); full[2].failed() || after != before {
		t.Errorf("a rollback in a full pool: %s", full[2])
	}
	if pools := result(full[3].rows("groups")[0]).rows("pools"); pools[0]["problem"] != nil {
		t.Errorf("the pool after the rollback: %s", full[3])
	}
	t.Log("a missing disk, a pool that cannot write or read its metadata, one on which LVM and the kernel do not agree: " +
		"each was named and refused; in a pool without data space no set is taken, and a rollback frees some")
}
