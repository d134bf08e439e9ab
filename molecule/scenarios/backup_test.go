//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// repositories are the options of each built-in backend in the guest. The repositories lie on the root file system.
var repositories = map[string]string{
	"mirror": "backend_options=path=/srv/mirror",
	"rsync":  "backend=rsync backend_options=path=/srv/rsync",
	"restic": "backend=restic backend_options=repository=/srv/restic,password_file=/root/restic.pw",
}

const makeRepositories = `mkdir -p /srv/mirror /srv/rsync && echo swordfish >/root/restic.pw &&
restic -q init --repo /srv/restic --password-file /root/restic.pw`

const removeRepositories = `rm -rf /srv/mirror /srv/rsync /srv/restic /root/restic.pw /var/cache/rewind`

// tricky are files of every kind, in a directory of the application.
const tricky = `mkdir -p /pccehr/tricky/empty && cd /pccehr/tricky && echo a >file && ln file hard && ln -s /etc/passwd link &&
truncate -s 20M sparse && printf x | dd of=sparse bs=1 seek=10M conv=notrunc status=none && setfattr -n user.colour -v blue file &&
setfacl -m u:nobody:r file && mkfifo fifo && mknod device c 1 3 && chmod 4711 file && touch -d '2001-02-03 04:05:06.789' file &&
printf odd >"$(printf 'a\nb \377')" && chown 1234:4321 empty && sync`

const noTricky = `rm -rf /pccehr/tricky`

// keepOriginals stops the services and keeps a copy of both volumes: the independent witness.
const keepOriginals = `systemctl stop pccehr postgresql 'postgresql@*' && rm -rf /srv/originals && mkdir /srv/originals && cp -a /dat /pccehr /srv/originals/`

const startServices = `systemctl start postgresql pccehr; until ` + active + `; do sleep 0.2; done`

// harm destroys both volumes' data in every way that a restore must undo.
const harm = `psql -d dat -qc "delete from patient where id % 3 = 0" && rm -rf /pccehr/records && echo new >/pccehr/new &&
{ ! [ -e /pccehr/tricky ] || { cd /pccehr/tricky && chmod 600 file && rm hard && cp file hard && setfattr -x user.colour file && ln -sfn /etc/shadow link && rm -r empty && echo >empty; }; }; sync`

// equal prints what differs between the originals and the set, by an independent program; nothing if all is well.
const equal = `for v in dat pccehr; do rsync -aHAXnci --delete --exclude=/lost+found /srv/originals/$v/ /run/rewind/mounts/restore/vg00/$v/; done`

// nothingLeft are a backup's or restore's traces on the server: volumes, mounts, processes, unfinished records.
const nothingLeft = `lvs --noheadings -o lv_name,lv_tags | grep rewind:use; cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -E '/run/rewind|restic|_backup|_restore'; pgrep -af 'backend (mirror|rsync|restic)|^restic |^rsync ' ;
grep -l '"outcome": ""' /var/lib/rewind/journal/* ; ls /run/rewind/mounts 2>/dev/null; true`

// TestBackupAndRestore is the full demonstration, with each backend that is built in: a set backed up, harm, the backup
// restored into new snapshots while the services run, looked at, and merged.
func TestBackupAndRestore(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, makeRepositories+"\n"+tricky, removeRepositories+"; rm -rf /srv/originals; "+noTricky)
	before := g.run(t, patients)
	for _, backend := range []string{"mirror", "rsync", "restic"} {
		t.Run(backend, func(t *testing.T) {
			options := repositories[backend]
			g.run(t, keepOriginals)
			stored := g.ok(t, "snap_backup volumes=/dat,/pccehr "+options)
			g.nothingLeft(t)
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
			if differs := g.run(t, equal); differs != "" {
				t.Errorf("the set differs from the originals:\n%s", differs)
			}
			g.fails(t, "snap_backup action=restore "+options, "busy")
			g.ok(t, "lvm_snapshot name=restore state=unmounted")
			if again := g.ok(t, "snap_backup action=restore "+options); again["changed"] != false {
				t.Errorf("the same restore again wrote something: %v", again)
			}
			placed, which := g.ok(t, putInPlace(backend, options)).msg(), fmt.Sprintf("which holds backup %v of", stored["id"])
			if !strings.Contains(placed, which) {
				t.Errorf("what was put in place: %s", placed)
			}
			if now := g.run(t, patients); now != before {
				t.Errorf("%s patients after the restore, %s before", now, before)
			}
			g.nothingLeft(t)
			checked := g.ok(t, "snap_backup action=check "+options)
			if last, _ := checked["last"].(map[string]any); last["id"] != stored["id"] {
				t.Errorf("the last backup is %v, not %v", last, stored["id"])
			}
			g.has(t, "snap_backup_info "+options, fmt.Sprint(stored["id"]))
			if kept := g.lastBackup(t, "backup", backend); kept["state"] != "ok" || kept["good"].(map[string]any)["id"] != stored["id"] {
				t.Errorf("what is kept of the backup on the server: %v", kept)
			}
			t.Logf("%s: %v files, %v bytes stored; restored while the services ran: %v", backend, stored["files"], stored["stored_bytes"], filled.msg())
		})
	}
}

// lastBackup is what lvm_snapshot_info says of the last backup of a name with a backend, whatever its volumes.
func (g guest) lastBackup(t *testing.T, name, backend string) (last map[string]any) {
	t.Helper()
	for _, b := range g.ok(t, "lvm_snapshot_info name="+name).rows("backups") { // of one name by their beginning
		if b["backend"] == backend {
			last = b
		}
	}
	if last == nil {
		t.Fatalf("lvm_snapshot_info has no backup %s with %s", name, backend)
	}
	return last
}

// putInPlace rolls back to the filled set: by hand for rsync, else by the merge that the restore goes on with where the
// set is filled already.
func putInPlace(backend, options string) string {
	const rollback = " services=postgresql,pccehr wait=true"
	if backend == "rsync" {
		return "lvm_merge name=restore" + rollback
	}
	return "snap_backup action=restore merge=true " + options + rollback
}

// playedOn leaves a scenario to the other guest, unless -torture has it played on both. Both guests show each kind of
// fault and what depends on the kernel; the rest is divided, since twice takes twice as long.
func playedOn(t *testing.T, lab string) {
	t.Helper()
	if !*torture && theGuest.lab != lab {
		t.Skip("played on " + lab + "; on both by make torture")
	}
}

// onlyOn has a scenario played on one guest, by make torture too: what it shows is done by our own programs, and the
// parts of LVM, the kernel and systemd that they use there are the same on both guests or are played on both elsewhere.
func onlyOn(t *testing.T, lab string) {
	t.Helper()
	if theGuest.lab != lab {
		t.Skip("played on " + lab)
	}
}

// tortured leaves a scenario to make torture.
func tortured(t *testing.T) {
	t.Helper()
	if !*torture {
		t.Skip("played by make torture")
	}
}

// nothingLeft fails the test if a backup or restore left anything behind.
func (g guest) nothingLeft(t *testing.T) {
	t.Helper()
	if left := g.run(t, nothingLeft); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// has fails the test unless a list of backups holds one of that id.
func (g guest) has(t *testing.T, words, id string) {
	t.Helper()
	if !has(g.ok(t, words).rows("backups"), map[string]any{"id": id, "complete": true}) {
		t.Errorf("%s does not list %s", words, id)
	}
}

// TestRestoreAtOnce restores a subset under load, and goes on to the rollback in the same task.
func TestRestoreAtOnce(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, makeRepositories+"\n"+`su postgres -c 'createdb bench && pgbench -qi -s 1 bench' >/dev/null 2>&1`,
		removeRepositories+`; su postgres -c 'dropdb bench'`)
	load := `systemd-run -q --collect --unit=load --uid=postgres pgbench -n -T 600 -c 2 bench`
	g.run(t, load)
	t.Cleanup(func() { g.run(t, "systemctl stop load 2>/dev/null; true") })
	g.eventually(t, "the load", `[ "$(psql -U postgres -Atd bench -c 'select count(*) from pgbench_history' 2>/dev/null || su postgres -c "psql -Atd bench -c 'select count(*) from pgbench_history'")" -gt 20 ]`, reachLimit)
	before := g.run(t, patients)
	g.ok(t, "snap_backup volumes=/dat,/pccehr "+repositories["mirror"])
	g.run(t, "systemctl stop load; "+harm)
	files := g.run(t, "ls /pccehr")
	g.fails(t, "snap_backup action=restore volumes=/dat merge=true services=postgresql,mispelt "+repositories["mirror"]+" --check", "not_found")
	held := g.fails(t, "snap_backup action=restore volumes=/dat merge=true "+repositories["mirror"]+" --check", "busy")
	if !strings.Contains(held.msg(), "postgres") {
		t.Errorf("who will be in the way of the rollback is not said before the restore: %s", held.msg())
	}
	preview := g.ok(t, "snap_backup action=restore volumes=/dat merge=true services=postgresql "+repositories["mirror"]+" --check")
	if preview["changed"] != true || len(preview.rows("restored")) != 1 {
		t.Errorf("the check says %v", preview)
	}
	g.nothingLeft(t)
	r := g.ok(t, "snap_backup action=restore volumes=/dat merge=true services=postgresql,pccehr wait=true "+repositories["mirror"])
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
	g.nothingLeft(t)
	t.Logf("backed up under load, restored at once, recovered by PostgreSQL, pg_amcheck is clean; down for %v ms", r["downtime_ms"])
}

// TestBackupLive reads what is not on LVM as it is, and says so.
func TestBackupLive(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, makeRepositories+"\nmkdir -p /opt/live && echo live >/opt/live/file", removeRepositories+"; rm -rf /opt/live")
	r := g.ok(t, `snap_backup volumes='["/pccehr",{"path":"/opt/live","snapshot":false}]' `+repositories["mirror"])
	if live, _ := r["read_live"].([]any); len(live) != 1 || live[0] != "/opt/live" {
		t.Errorf("the result does not say what was read live: %v", r)
	}
	if stored := g.run(t, "cat /srv/mirror/*/*/opt/live/file"); stored != "live" {
		t.Errorf("stored is %q", stored)
	}
	g.fails(t, "snap_backup action=restore "+repositories["mirror"], "bad_arguments") // all of it, of which one is no volume
	g.fails(t, `snap_backup volumes='[{"path":"/srv","snapshot":false}]' `+repositories["rsync"], "bad_arguments")
	second := g.ok(t, `snap_backup keep=1 volumes='["/pccehr",{"path":"/opt/live","snapshot":false}]' `+repositories["mirror"])
	g.has(t, "snap_backup_info "+repositories["mirror"], fmt.Sprint(second["id"]))
	if kept := g.ok(t, "snap_backup_info "+repositories["mirror"]).rows("backups"); len(kept) != 1 {
		t.Errorf("with keep=1 there are %v", kept)
	}
	g.fails(t, "snap_backup action=check volumes=/dat "+repositories["mirror"], "not_found")
	g.ok(t, "snap_backup action=check volumes=/pccehr "+repositories["mirror"])
	t.Logf("a directory that is not on LVM was read live: %s", r.msg())
}

// TestBackupCodes has each thing that a repository can be wrong in told by its own code.
func TestBackupCodes(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, makeRepositories+`
truncate -s 20M /srv/small.img && mkfs.ext4 -q /srv/small.img && mkdir -p /srv/small && mount -o loop /srv/small.img /srv/small
echo mistaken >/root/wrong.pw; head -c 30M /dev/urandom >/pccehr/bulk`, "rm -f /pccehr/bulk; umount /srv/small; rm -rf /srv/small /srv/small.img /root/wrong.pw /dat/repository; "+removeRepositories)
	before := g.run(t, devices)
	cases := []struct{ words, code string }{
		{"volumes=/pccehr backend_options=path=/srv/missing", "repository_missing"},
		{"volumes=/pccehr backend=restic backend_options=repository=/srv/missing,password_file=/root/restic.pw", "repository_missing"},
		{"volumes=/pccehr backend=restic backend_options=repository=/srv/restic,password_file=/root/wrong.pw", "wrong_password"},
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
	if kept := g.lastBackup(t, "backup", "restic"); kept["state"] != "failed" || kept["code"] != "wrong_password" || kept["good"] != nil {
		t.Errorf("what is kept of the last failure with restic: %v", kept)
	}
	g.unchanged(t, before)
	g.nothingLeft(t)
}

// TestSecretsAreNotShown looks for a password in everything that is written or can be seen while a backup runs.
func TestSecretsAreNotShown(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	const canary = "canary-5f2d"
	const pattern = "canary-5f2[d]" // a search must not find itself
	g.scratch(t, "mkdir -p /srv && RESTIC_PASSWORD="+canary+" restic -q init --repo /srv/canary && printf 'export RESTIC_PASSWORD="+canary+"\\n' >/root/canary.env && sed s/canary/wrong-canary/ /root/canary.env >/root/wrong.env\n"+
		file("/root/args", `{"volumes": ["/pccehr"], "backend": "restic", "backend_options": {"repository": "/srv/canary"},
 "environment": {"RESTIC_PASSWORD": "`+canary+`"}, "_ansible_diff": true, "_ansible_verbosity": 3}`),
		"rm -rf /srv/canary /root/canary.env /root/wrong.env /root/args /root/out /var/cache/rewind")
	words := "snap_backup volumes=/pccehr backend=restic backend_options=repository=/srv/canary environment_file=/root/canary.env"
	// Arguments are looked at as long as the call lasts, restic's own too.
	const watch = "systemd-run -q --collect --unit=watch bash -c 'while :; do grep -las \"" + pattern + "\" /proc/[0-9]*/cmdline >>/run/seen; sleep 0.1; done'"
	g.run(t, watch)
	t.Cleanup(func() { g.run(t, "systemctl stop watch; rm -f /run/seen") })
	c := g.start(t, armed("backup.stored hang")+words)
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	seen := g.run(t, "grep -rls '"+pattern+"' /run/rewind /var/lib/rewind; true")
	g.run(t, goOn)
	r := c.result(t)
	if r.failed() {
		t.Fatalf("%v", r)
	}
	// The same as Ansible gives it: only the file of arguments, which is Ansible's, holds the password.
	g.run(t, `snap_backup /root/args >/root/out 2>&1; rm /root/args; grep -q '"changed":true' /root/out && ! grep `+pattern+` /root/out`)
	seen += g.run(t, "cat /run/seen; rm /root/out")
	failed := g.fails(t, strings.Replace(words, "canary.env", "wrong.env", 1)+" --diff", "wrong_password")
	seen += g.run(t, "journalctl -b --no-pager -o cat -u 'rewind-*' | grep '"+pattern+"'; grep -rls '"+pattern+"' /run/rewind /var/lib/rewind; true")
	if seen != "" || strings.Contains(r.String()+failed.String(), canary) {
		t.Errorf("the password was seen in: %s\n%v\n%v", seen, r, failed)
	}
	t.Log("the password is in no argument, result, journal, progress or error")
}
