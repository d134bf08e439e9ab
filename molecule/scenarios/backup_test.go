//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// repositories are the arguments that choose each built-in backend and its place in the guest. The places are on the
// root file system.
var repositories = map[string]string{
	"mirror": "backend_options=path=/srv/mirror",
	"rsync":  "backend=rsync backend_options=path=/srv/rsync",
	"restic": "backend=restic backend_options=repository=/srv/restic,password_file=/root/restic.pw",
}

const makeRepositories = `mkdir -p /srv/mirror /srv/rsync && echo swordfish >/root/restic.pw &&
restic -q init --repo /srv/restic --password-file /root/restic.pw`

// forgetBackups removes what the server knows of its backups. It refuses a place that it knows to have had some and
// that has none now.
const forgetBackups = `rm -rf /var/lib/rewind/jobs; `

const removeRepositories = forgetBackups + `rm -rf /srv/mirror /srv/rsync /srv/restic /root/restic.pw /var/cache/rewind`

// makeTricky makes files of every kind in a directory on /pccehr.
const makeTricky = `mkdir -p /pccehr/tricky/empty && cd /pccehr/tricky && echo a >file &&
ln file hard && ln -s /etc/passwd link &&
truncate -s 20M sparse && printf x | dd of=sparse bs=1 seek=10M conv=notrunc status=none &&
setfattr -n user.colour -v blue file && setfacl -m u:nobody:r file &&
mkfifo fifo && mknod device c 1 3 && chmod 4711 file && touch -d '2001-02-03 04:05:06.789' file &&
printf odd >"$(printf 'a\nb \377')" && chown 1234:4321 empty && sync`

const removeTricky = `rm -rf /pccehr/tricky`

// keepOriginals stops the services and copies both volumes to /srv/originals, with which restored files are compared.
const keepOriginals = `systemctl stop pccehr postgresql 'postgresql@*' &&
rm -rf /srv/originals && mkdir /srv/originals && cp -a /dat /pccehr /srv/originals/`

const startServices = `systemctl start postgresql pccehr; until ` + allActive + `; do sleep 0.2; done`

// harm changes the files on both volumes in every way that a restore must undo.
const harm = `psql -d dat -qc "delete from patient where id % 3 = 0" &&
rm -rf /pccehr/records && echo new >/pccehr/new &&
{ ! [ -e /pccehr/tricky ] || { cd /pccehr/tricky && chmod 600 file && rm hard && cp file hard &&
setfattr -x user.colour file && ln -sfn /etc/shadow link && rm -r empty && echo >empty; }; }; sync`

// listDifferences prints what differs between the copies in /srv/originals and the mounted set, as rsync finds it,
// which is none of our own programs. It prints nothing if they are the same.
const listDifferences = `for v in dat pccehr; do
rsync -aHAXnci --delete --exclude=/lost+found /srv/originals/$v/ /run/rewind/mounts/restore/vg00/$v/; done`

// listLeftovers prints what a backup or a restore may have left on the server: volumes, mounts, processes, unfinished
// journal entries.
const listLeftovers = `lvs --noheadings -o lv_name,lv_tags | grep rewind:use
cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -E '/run/rewind|restic|_backup|_restore'
pgrep -af 'backend (mirror|rsync|restic)|^restic |^rsync '
grep -l '"outcome": ""' /var/lib/rewind/journal/* ; ls /run/rewind/mounts 2>/dev/null; true`

// TestBackupAndRestore backs a set up with each built-in backend, does harm, restores the backup into new snapshots
// while the services run, compares the restored files with copies of the originals, and rolls back to them.
func TestBackupAndRestore(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\n"+makeTricky, removeRepositories+"; rm -rf /srv/originals; "+removeTricky)
	before := g.run(t, patients)
	for _, backend := range []string{"mirror", "rsync", "restic"} {
		t.Run(backend, func(t *testing.T) {
			options := repositories[backend]
			g.run(t, keepOriginals)
			stored := g.ok(t, "snap_backup volumes=/dat,/pccehr "+options)
			g.checkNothingLeft(t)
			g.run(t, startServices+"\n"+harm)
			harmed := g.run(t, patients)
			filled := g.ok(t, "snap_backup action=restore "+options)
			if now := g.run(t, patients); now != harmed {
				t.Errorf("%s patients while the set was filled, %s before: the origin was touched", now, harmed)
			}
			sets := g.ok(t, "lvm_snapshot_info name=restore").rows("sets")
			if held, _ := sets[0]["backup"].(map[string]any); held["id"] != stored["id"] || held["time"] != stored["time"] {
				t.Errorf("the set says that it holds %v, not %v of %v", held, stored["id"], stored["time"])
			}
			g.ok(t, "lvm_snapshot name=restore state=mounted")
			if differs := g.run(t, listDifferences); differs != "" {
				t.Errorf("the set differs from the originals:\n%s", differs)
			}
			g.fails(t, "snap_backup action=restore "+options, "busy")
			g.ok(t, "lvm_snapshot name=restore state=unmounted")
			if again := g.ok(t, "snap_backup action=restore "+options); again["changed"] != false {
				t.Errorf("the same restore again wrote something: %v", again)
			}
			placed, which := g.ok(t, mergeCall(backend, options)).msg(), fmt.Sprintf("which holds backup %v of", stored["id"])
			if !strings.Contains(placed, which) {
				t.Errorf("what was put in place: %s", placed)
			}
			if now := g.run(t, patients); now != before {
				t.Errorf("%s patients after the restore, %s before", now, before)
			}
			g.checkNothingLeft(t)
			checked := g.ok(t, "snap_backup action=check "+options)
			if last, _ := checked["last"].(map[string]any); last["id"] != stored["id"] {
				t.Errorf("the last backup is %v, not %v", last, stored["id"])
			}
			g.checkListed(t, "snap_backup_info "+options, fmt.Sprint(stored["id"]))
			last := g.lastBackup(t, "backup", backend)
			good, _ := last["good"].(map[string]any)
			if last["state"] != "ok" || good["id"] != stored["id"] {
				t.Errorf("what the server has recorded of the backup: %v", last)
			}
			t.Logf("%s: %v files, %v bytes stored; restored while the services ran: %v",
				backend, stored["files"], stored["stored_bytes"], filled.msg())
		})
	}
}

// lastBackup returns what lvm_snapshot_info says of the last backup of a name with a backend, whatever its volumes.
func (g guest) lastBackup(t *testing.T, name, backend string) (last map[string]any) {
	t.Helper()
	for _, b := range g.ok(t, "lvm_snapshot_info name="+name).rows("backups") { // in the order of their beginnings
		if b["backend"] == backend {
			last = b
		}
	}
	if last == nil {
		t.Fatalf("lvm_snapshot_info has no backup %s with %s", name, backend)
	}
	return last
}

// mergeCall is the command line that rolls back to the filled set. With rsync it is lvm_merge. With the other backends
// it is the same restore with merge=true, which finds the set filled already.
func mergeCall(backend, options string) string {
	const rollback = " services=postgresql,pccehr wait=true"
	if backend == "rsync" {
		return "lvm_merge name=restore" + rollback
	}
	return "snap_backup action=restore merge=true " + options + rollback
}

// playedOn skips the test if the guest is not the given one, unless -torture is set. Each kind of fault, and what
// depends on the kernel, is tested on both guests. The other scenarios are divided between the guests, to save time.
func playedOn(t *testing.T, lab string) {
	t.Helper()
	if !*torture && theGuest.lab != lab {
		t.Skip("played on " + lab + "; on both by make torture")
	}
}

// onlyOn skips the test if the guest is not the given one, with -torture, too. It is for what our own programs do alike
// on every kernel: what they use of LVM, the kernel and systemd there is the same on both guests, or other scenarios
// test it on both. molecule/parts looks for calls of onlyOn in this source.
func onlyOn(t *testing.T, lab string) {
	t.Helper()
	if theGuest.lab != lab {
		t.Skip("played on " + lab)
	}
}

// tortured skips the test unless -torture is set.
func tortured(t *testing.T) {
	t.Helper()
	if !*torture {
		t.Skip("played by make torture")
	}
}

// checkNothingLeft fails the test if a backup or a restore has left anything behind.
func (g guest) checkNothingLeft(t *testing.T) {
	t.Helper()
	if left := g.run(t, listLeftovers); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// checkListed fails the test unless the backups in a module's result have a complete one with that ID.
func (g guest) checkListed(t *testing.T, commandLine, id string) {
	t.Helper()
	if !hasRow(g.ok(t, commandLine).rows("backups"), map[string]any{"id": id, "complete": true}) {
		t.Errorf("%s does not list %s", commandLine, id)
	}
}

// countHistory prints how many transactions pgbench has noted. It connects as the database user postgres, by su if root
// may not connect as that user.
const countHistory = `psql -U postgres -Atd bench -c 'select count(*) from pgbench_history' 2>/dev/null ||
su postgres -c "psql -Atd bench -c 'select count(*) from pgbench_history'"`

// TestRestoreAtOnce makes a backup while pgbench writes, and restores one of its volumes with merge=true, so that the
// rollback follows in the same run.
func TestRestoreAtOnce(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\n"+`su postgres -c 'createdb bench && pgbench -qi -s 1 bench' >/dev/null 2>&1`,
		removeRepositories+`; su postgres -c 'dropdb bench'`)
	load := `systemd-run -q --collect --unit=load --uid=postgres pgbench -n -T 600 -c 2 bench`
	g.run(t, load)
	t.Cleanup(func() { g.run(t, "systemctl stop load 2>/dev/null; true") })
	g.eventually(t, "the load", `[ "$(`+countHistory+`)" -gt 20 ]`, reachLimit)
	before := g.run(t, patients)
	g.ok(t, "snap_backup volumes=/dat,/pccehr "+repositories["mirror"])
	g.run(t, "systemctl stop load; "+harm)
	files := g.run(t, "ls /pccehr")
	restoreAndMerge := "snap_backup action=restore volumes=/dat merge=true " + repositories["mirror"]
	g.fails(t, restoreAndMerge+" services=postgresql,mispelt --check", "not_found")
	held := g.fails(t, restoreAndMerge+" --check", "busy")
	if !strings.Contains(held.msg(), "postgres") {
		t.Errorf("the check before the restore does not name what will be in the way of the rollback: %s", held.msg())
	}
	preview := g.ok(t, restoreAndMerge+" services=postgresql --check")
	if preview["changed"] != true || len(preview.rows("restored")) != 1 {
		t.Errorf("the check says %v", preview)
	}
	g.checkNothingLeft(t)
	r := g.ok(t, restoreAndMerge+" services=postgresql,pccehr wait=true")
	if now := g.run(t, patients); now != before {
		t.Errorf("%s patients after the restore, %s before", now, before)
	}
	if now := g.run(t, "ls /pccehr"); now != files {
		t.Errorf("/pccehr, which was not restored, holds %s now, not %s", now, files)
	}
	if r["discarded_since"] == nil || r["downtime_ms"] == nil || r["restore_id"] == nil {
		t.Errorf("the result lacks what was discarded, or how long the services were down: %v", r)
	}
	g.run(t, `su postgres -c 'PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) pg_amcheck --install-missing -a'`)
	g.checkNothingLeft(t)
	t.Logf("backed up under load, restored and rolled back in one run, recovered by PostgreSQL, pg_amcheck is clean; "+
		"services were down for %v ms", r["downtime_ms"])
}

// TestBackupLive backs up a directory that is not on LVM without a snapshot, and finds it in the result as read live.
func TestBackupLive(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\nmkdir -p /opt/live && echo live >/opt/live/file",
		removeRepositories+"; rm -rf /opt/live")
	const volumes = `volumes='["/pccehr",{"path":"/opt/live","snapshot":false}]' `
	r := g.ok(t, "snap_backup "+volumes+repositories["mirror"])
	if live, _ := r["read_live"].([]any); len(live) != 1 || live[0] != "/opt/live" {
		t.Errorf("the result does not say what was read live: %v", r)
	}
	if stored := g.run(t, "cat /srv/mirror/*/*/opt/live/file"); stored != "live" {
		t.Errorf("stored is %q", stored)
	}
	// The whole backup cannot be restored, because one of its roots is no volume.
	g.fails(t, "snap_backup action=restore "+repositories["mirror"], "bad_arguments")
	g.fails(t, `snap_backup volumes='[{"path":"/srv","snapshot":false}]' `+repositories["rsync"], "bad_arguments")
	second := g.ok(t, "snap_backup keep=1 "+volumes+repositories["mirror"])
	g.checkListed(t, "snap_backup_info "+repositories["mirror"], fmt.Sprint(second["id"]))
	if kept := g.ok(t, "snap_backup_info "+repositories["mirror"]).rows("backups"); len(kept) != 1 {
		t.Errorf("with keep=1 there are %v", kept)
	}
	g.fails(t, "snap_backup action=check volumes=/dat "+repositories["mirror"], "not_found")
	g.ok(t, "snap_backup action=check volumes=/pccehr "+repositories["mirror"])
	t.Logf("a directory that is not on LVM was read live: %s", r.msg())
}

// TestBackupCodes tries what can be wrong with a place: each fault has its own code, a hint, and changes nothing.
func TestBackupCodes(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories+`
truncate -s 20M /srv/small.img && mkfs.ext4 -q /srv/small.img &&
mkdir -p /srv/small && mount -o loop /srv/small.img /srv/small
echo mistaken >/root/wrong.pw; head -c 30M /dev/urandom >/pccehr/bulk`,
		"rm -f /pccehr/bulk; umount /srv/small; rm -rf /srv/small /srv/small.img /root/wrong.pw /dat/repository; "+
			removeRepositories)
	before := g.run(t, devices)
	const restic = "volumes=/pccehr backend=restic backend_options="
	cases := []struct{ words, code string }{
		{"volumes=/pccehr backend_options=path=/srv/missing", "repository_missing"},
		{restic + "repository=/srv/missing,password_file=/root/restic.pw", "repository_missing"},
		{restic + "repository=/srv/restic,password_file=/root/wrong.pw", "wrong_password"},
		{"volumes=/pccehr backend_options=path=/srv/small", "repository_full"},
		{"volumes=/pccehr backend_options=path=/pccehr", "bad_arguments"},
		{"volumes=/pccehr backend=unknown", "not_found"},
		{"volumes=/pccehr", "bad_arguments"},
		{"action=restore " + repositories["mirror"], "not_found"},
		{"action=check " + repositories["restic"], "not_found"},
	}
	for _, c := range cases {
		r := g.fails(t, "snap_backup "+c.words, c.code)
		if r.hint() == "" {
			t.Errorf("%s: no hint: %s", c.words, r.msg())
		}
		t.Logf("%s: %s", c.code, r.msg())
	}
	last := g.lastBackup(t, "backup", "restic")
	if last["state"] != "failed" || last["code"] != "wrong_password" || last["good"] != nil {
		t.Errorf("what the server has recorded of the last failure with restic: %v", last)
	}
	g.checkUnchanged(t, before)
	g.checkNothingLeft(t)
}

// TestSecretsAreNotShown searches for a password in everything that a backup writes and in all command lines while it
// runs.
func TestSecretsAreNotShown(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	const canary = "canary-5f2d"
	const pattern = "canary-5f2[d]" // grep must not find its own command line
	g.prepare(t, "mkdir -p /srv && RESTIC_PASSWORD="+canary+" restic -q init --repo /srv/canary && "+
		"printf 'export RESTIC_PASSWORD="+canary+"\\n' >/root/canary.env && "+
		"sed s/canary/wrong-canary/ /root/canary.env >/root/wrong.env\n"+
		writeFile("/root/args", `
{"volumes": ["/pccehr"], "backend": "restic", "backend_options": {"repository": "/srv/canary"},
 "environment": {"RESTIC_PASSWORD": "`+canary+`"}, "_ansible_diff": true, "_ansible_verbosity": 3}`),
		"rm -rf /srv/canary /root/canary.env /root/wrong.env /root/args /root/out /var/cache/rewind")
	backUp := "snap_backup volumes=/pccehr backend=restic backend_options=repository=/srv/canary " +
		"environment_file=/root/canary.env"
	// All command lines are searched while the backup runs, restic's, too.
	const watch = "systemd-run -q --collect --unit=watch bash -c 'while :; do grep -las \"" + pattern +
		"\" /proc/[0-9]*/cmdline >>/run/seen; sleep 0.1; done'"
	g.run(t, watch)
	t.Cleanup(func() { g.run(t, "systemctl stop watch; rm -f /run/seen") })
	c := g.start(t, withFailpoint("backup.stored hang")+backUp)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	seen := g.run(t, "grep -rls '"+pattern+"' /run/rewind /var/lib/rewind; true")
	g.run(t, releaseFailpoint)
	r := c.result(t)
	if r.failed() {
		t.Fatalf("%v", r)
	}
	// The same call as Ansible makes it: the password is in the file of arguments, which Ansible writes.
	g.run(t, `snap_backup /root/args >/root/out 2>&1; rm /root/args
grep -q '"changed":true' /root/out && ! grep `+pattern+` /root/out`)
	seen += g.run(t, "cat /run/seen; rm /root/out")
	failed := g.fails(t, strings.Replace(backUp, "canary.env", "wrong.env", 1)+" --diff", "wrong_password")
	seen += g.run(t, "journalctl -b --no-pager -o cat -u 'rewind-*' | grep '"+pattern+"'; "+
		"grep -rls '"+pattern+"' /run/rewind /var/lib/rewind; true")
	if seen != "" || strings.Contains(r.String()+failed.String(), canary) {
		t.Errorf("the password was seen in: %s\n%v\n%v", seen, r, failed)
	}
	t.Log("the password is in no argument, result, journal, progress or error")
}
