//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// TestRestoreOnThin restores into a thin snapshot. A restore that would fill the pool fails before the pool is full.
func TestRestoreOnThin(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeRepositories+`
lvcreate -qqy -L 200M -T vg01/pool 2>/dev/null; lvcreate -qqy -V 190M -T vg01/pool -n thin 2>/dev/null
mkfs.ext4 -q /dev/vg01/thin; mkdir -p /srv/thin; mount /dev/vg01/thin /srv/thin
head -c 90M /dev/urandom >/srv/thin/old; sync`,
		"lvm_snapshot name=restore state=absent >/dev/null; umount /srv/thin; lvremove -qqy vg01/pool; "+
			"rmdir /srv/thin; "+removeRepositories)
	const restoreThin = "snap_backup action=restore "
	const content = "find /srv/thin -type f -exec sha256sum {} + | sort"
	files := g.run(t, content)
	g.ok(t, "snap_backup volumes=/srv/thin "+repositories["mirror"])
	g.run(t, "dd if=/dev/urandom of=/srv/thin/old bs=4k count=500 seek=1000 conv=notrunc status=none; sync")
	r := g.ok(t, restoreThin+"merge=true wait=true "+repositories["mirror"])
	if now := g.run(t, content); now != files {
		t.Errorf("restored: %s, not %s", now, files)
	}
	t.Logf("restored into a thin snapshot: %s", r.msg())

	g.run(t, "rm /srv/thin/old; sync; head -c 115M /dev/urandom >/srv/thin/new; sync")
	files = g.run(t, content)
	before := g.run(t, devices)
	full := g.fails(t, restoreThin+repositories["mirror"], "no_space")
	g.checkUnchanged(t, before)
	if now := g.run(t, content); now != files {
		t.Error("the origin was touched")
	}
	g.checkNothingLeft(t)
	g.run(t, `lvs --noheadings -o data_percent vg01/pool | awk '{ print; exit !($1 < 97) }'`)
	t.Logf("a restore that would fill the pool fails at the pool's reserve: %s", full.msg())
}

// TestRestoreFillsBlocksNotPages restores a file of which one block in 64 differs. The kernel caches in large folios
// what it reads ahead, and before Linux 6.6 XFS writes a whole folio back for one changed block. A restore must not use
// COW space for that.
func TestRestoreFillsBlocksNotPages(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\nsystemctl stop postgresql 'postgresql@*'; head -c 64M /dev/urandom >/dat/bulk; sync",
		removeRepositories+"; rm -f /dat/bulk; lvm_snapshot name=restore state=absent >/dev/null; "+startServices)
	g.ok(t, "snap_backup volumes=/dat "+repositories["mirror"])
	g.run(t, `python3 -c '
with open("/dat/bulk", "r+b") as file:
    for at in range(0, 64 << 20, 256 << 10):
        file.seek(at)
        file.write(bytes(4096))'; sync`)
	r := g.ok(t, "snap_backup action=restore volumes=/dat "+repositories["mirror"]).rows("restored")[0]
	written, used := r["written_bytes"].(float64), r["cow_used_bytes"].(float64)
	const log = 4 << 20 // XFS clears a part of its log when it is mounted
	if written < 256*4096 || used > 1.2*written+log {
		t.Errorf("%.0f bytes were written and took %.0f of COW space", written, used)
	}
	t.Logf("%.1f MB that differ took %.1f MB of COW space", written/1e6, used/1e6)
}

// TestRestoreWhileTheOriginIsFlooded writes more to the origin than the snapshot's COW space can record, while a
// restore fills the snapshot. The snapshot is extended in time, or the restore is undone. The origin is as it was in
// both cases.
func TestRestoreWhileTheOriginIsFlooded(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "mirror")
	g.run(t, "rm -f /pccehr/bulk; sync")
	free := strings.TrimSpace(g.run(t, "vgs --noheadings --units b --nosuffix -o vg_free vg00"))
	g.prepare(t, "true", "lvm_snapshot name=restore state=absent >/dev/null; lvremove -qqy vg00/full 2>/dev/null; true")
	for _, room := range []bool{true, false} {
		if !room {
			g.run(t, "lvcreate -qqy -n full -L $(( ("+free+" - 90*1024*1024) / 4194304 * 4194304 ))b vg00")
		}
		before, files := g.run(t, devices), g.run(t, sums)
		call := backups.withBackend(restoreCall+"volumes=/pccehr size=24m ", "mirror")
		c := g.start(t, withFailpoint("restore.writing hang")+call)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, "for i in 1 2 3 4 5; do dd if=/dev/urandom of=/pccehr/flood.$i bs=1M count=20 conv=fsync status=none; "+
			"done; rm /pccehr/flood.*; sync; "+releaseFailpoint)
		r := c.result(t)
		switch {
		case !r.failed() && room:
			g.ok(t, "lvm_snapshot name=restore state=mounted")
			g.run(t, "test $(ls /run/rewind/mounts/restore/vg00/pccehr/many | wc -l) = 200")
			g.ok(t, "lvm_snapshot name=restore state=absent")
		case r.code() == "no_space" || r.code() == "snapshot_invalid":
		default:
			t.Errorf("room to extend: %v: %v", room, r)
		}
		g.checkUnchanged(t, before)
		if now := g.run(t, sums); now != files {
			t.Error("the origin was touched")
		}
		g.checkNothingLeft(t)
		t.Logf("origin flooded during the restore, room to extend: %v: %s", room, r.msg())
	}
}

// TestOthersSetsAreNotTouched takes sets with the names that a backup and a restore use for theirs. Both are refused,
// and the sets stay as they are.
func TestOthersSetsAreNotTouched(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "mirror")
	g.prepare(t, "true",
		"lvm_snapshot name=backup state=absent >/dev/null; lvm_snapshot name=restore state=absent >/dev/null")
	for name, call := range map[string]string{"backup": backupCall(), "restore": restoreCall} {
		id := g.ok(t, "lvm_snapshot name="+name+" volumes=/pccehr")["id"]
		r := g.fails(t, backups.withBackend(call, "mirror"), "exists")
		if sets := g.ok(t, "lvm_snapshot_info name="+name).rows("sets"); len(sets) != 1 || sets[0]["id"] != id {
			t.Errorf("set %s is not what it was: %v", name, sets)
		}
		g.ok(t, "lvm_snapshot name="+name+" state=absent")
		t.Logf("%s: %s", name, r.msg())
	}
	g.checkNothingLeft(t)
}

// TestBackupOutlivesAnUnmount unmounts a volume, and mounts it again, while a backend reads its snapshot. The kernel
// passes both on to the backend's mount namespace. Then it unmounts the snapshot itself in that namespace, and the
// backup fails.
func TestBackupOutlivesAnUnmount(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories+"; systemctl stop pccehr",
		"mountpoint -q /pccehr || mount /pccehr; systemctl start pccehr; "+removeRepositories)
	c := g.start(t, withFailpoint("backup.mounted hang")+"snap_backup volumes=/pccehr "+repositories["mirror"])
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, "umount /pccehr; mount /pccehr; umount /pccehr; "+releaseFailpoint)
	r := c.result(t)
	want := strings.TrimSpace(g.run(t, "mount /pccehr; find /pccehr -xdev ! -type d | wc -l"))
	if r.failed() || fmt.Sprint(r["files"]) != want {
		t.Errorf("%s files are not all in the backup: %v", want, r)
	}
	g.checkNothingLeft(t)

	c = g.start(t, withFailpoint("backup.mounted hang")+"snap_backup volumes=/pccehr "+repositories["mirror"])
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, "nsenter -m -t $(pgrep -o -f '^[^ ]*rewind-[^ ]* backend mirror') umount /pccehr; "+releaseFailpoint)
	r = c.result(t)
	if r.code() != "set_differs" || !strings.Contains(r.msg(), "/pccehr") {
		t.Errorf("the snapshot itself was unmounted: %v", r)
	}
	if list := g.ok(t, "snap_backup_info "+repositories["mirror"]).rows("backups"); len(list) != 1 {
		t.Errorf("the backup without the snapshot is still listed: %v", list)
	}
	g.checkNothingLeft(t)
	t.Logf("the snapshot unmounted in the backend's namespace: %s", r.msg())
}

// TestBackendMisbehaves makes backups with a backend that crashes, hangs, or says what is not true. The backup fails,
// and its set is removed.
func TestBackendMisbehaves(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, "mkdir -p /usr/local/lib/rewind/backends && "+
		"cp /usr/local/bin/backends/misbehave /usr/local/lib/rewind/backends/", "rm -rf /usr/local/lib/rewind")
	before := g.run(t, devices)
	for role, says := range map[string]string{
		"crash": "as it was told to",
		"hang":  "said nothing for 10s",
		"lie":   "does not list it",
		"print": "does not list it", // a line on stdout after the handshake does no harm
	} {
		if role != "lie" && !*torture {
			continue
		}
		backUp := "snap_backup volumes=/dat,/pccehr backend=misbehave stall_timeout=10 backend_options=role=" + role
		r := g.fails(t, backUp, "backend_failed")
		if !strings.Contains(r.String(), says) || r.hint() == "" {
			t.Errorf("%s: want %q: %s", role, says, r)
		}
		g.checkUnchanged(t, before)
		g.checkNothingLeft(t)
		t.Logf("a backend that is to %s: %s", role, r.msg())
	}
}

// TestSourceCodes backs up, without a snapshot, a file that cannot be read and one that is removed meanwhile. Then
// another program holds restic's lock of the repository. Each has its own code.
func TestSourceCodes(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\nmkdir -p /opt/live && head -c 80M /dev/urandom >/opt/live/a && "+
		"echo z >/opt/live/z; sync",
		"pkill -CONT -f '^restic .*check'; pkill -f '^restic .*check'; rm -rf /opt/live; "+removeRepositories)
	live := func(path string) string {
		return `snap_backup volumes='["/pccehr",{"path":"` + path + `","snapshot":false}]' `
	}
	unreadable := g.fails(t, live("/sys/module/loop")+repositories["mirror"], "source_unreadable")
	if paths := fmt.Sprint(unreadable["paths"]); !strings.Contains(paths, "/sys/module/loop/uevent") {
		t.Errorf("the file is not named: %v", unreadable)
	}
	listed := g.ok(t, "snap_backup_info "+repositories["mirror"]).rows("backups")
	if len(listed) != 1 || listed[0]["complete"] != false {
		t.Errorf("what could be read is not listed as incomplete: %v", listed)
	}
	const removeMeanwhile = "(until ls -A /srv/rsync/*/*/opt/live 2>/dev/null | grep -q a; do :; done; rm /opt/live/z) & "
	vanished := g.fails(t, removeMeanwhile+live("/opt/live")+repositories["rsync"], "source_vanished")
	g.run(t, "restic -q --repo /srv/restic --password-file /root/restic.pw check >/dev/null 2>&1 & "+
		"until ls /srv/restic/locks/*; do :; done; kill -STOP $!")
	locked := g.fails(t, "snap_backup volumes=/pccehr lock_timeout=1 "+repositories["restic"], "repository_locked")
	g.run(t, "pkill -CONT -f '^restic .*check'; while pgrep -f '^restic .*check'; do sleep 0.1; done")
	g.ok(t, "snap_backup volumes=/pccehr "+repositories["restic"])
	g.checkNothingLeft(t)
	t.Logf("%s | %s | %s", unreadable.msg(), vanished.msg(), locked.msg())
}

// manyFiles is the number of files with which the memory of a backup and of a restore is measured: /pccehr has no room
// for more. make bench measures with a million.
const manyFiles = 30000

// mostKiB is the largest resident set, in KiB, that a process of a backup or a restore may have.
const mostKiB = 40 << 10

// TestMemoryIsBounded backs up and restores many small files, and reads the peak memory of each process before it ends.
func TestMemoryIsBounded(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories+fmt.Sprintf(`
python3 -c 'import os
for n in range(%d):
    if n %% 100 == 0: os.makedirs(f"/pccehr/many/{n // 100}")
    open(f"/pccehr/many/{n // 100}/{n}", "w").close()'; sync`, manyFiles),
		"rm -rf /pccehr/many; lvm_snapshot name=restore state=absent >/dev/null; "+removeRepositories)
	const peak = `for p in $(pgrep -f '^/var/lib/rewind/bin/rewind-|^snap_backup'); do
awk '/VmHWM/ { print $2 }' /proc/$p/status; done | sort -n | tail -1`
	for _, c := range []struct{ failpoint, commandLine string }{
		{"backup.stored", "snap_backup volumes=/pccehr " + repositories["mirror"]},
		{"restore.filled", "snap_backup action=restore volumes=/pccehr " + repositories["mirror"]},
	} {
		if c.failpoint == "restore.filled" {
			g.run(t, "rm -rf /pccehr/many/1 /pccehr/many/2; sync")
		}
		call := g.start(t, withFailpoint(c.failpoint+" hang")+c.commandLine)
		g.eventually(t, "the failpoint", failpointReached, settleLimit)
		var kib int
		if _, err := fmt.Sscan(g.run(t, peak), &kib); err != nil || kib == 0 || kib > mostKiB {
			t.Errorf("%s: the largest process has %d KiB (%v), at most %d are promised", c.failpoint, kib, err, mostKiB)
		}
		g.run(t, releaseFailpoint)
		if r := call.result(t); r.failed() {
			t.Errorf("%v", r)
		}
		t.Logf("%d files, at %s: the largest process of the run had %.1f MiB", manyFiles, c.failpoint, float64(kib)/1024)
	}
}
