//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// restoreCall begins the command line of the restore that is interrupted.
const restoreCall = "snap_backup action=restore "

// backupCall begins the command line of the backup that is interrupted. Without -torture it is of the smaller volume
// alone.
func backupCall() string {
	if *torture {
		return "snap_backup volumes=/dat,/pccehr "
	}
	return "snap_backup volumes=/pccehr "
}

// backupInterruption is a place at which a backup or a restore is interrupted.
type backupInterruption struct {
	failpoint string
	call      string
	backend   string
	always    bool // also without -torture
}

func backupInterruptions() []backupInterruption {
	return []backupInterruption{
		{"backup.taken", backupCall(), "mirror", false},
		{"backup.mounted", backupCall(), "restic", false},
		{"backup.stored", backupCall(), "mirror", true},
		{"restore.taken", restoreCall, "rsync", false},
		{"restore.writing", restoreCall, "mirror", true},
		{"restore.gate#20", restoreCall, "restic", false},
	}
}

// makeManyFiles makes files that harmPccehr removes, so that a restore writes for a while.
const makeManyFiles = `mkdir -p /pccehr/many && for i in $(seq 200); do echo $i >/pccehr/many/$i; done; sync`

// harmPccehr removes the files that makeManyFiles has made, and writes 20 MiB of others.
const harmPccehr = `rm -rf /pccehr/many; head -c 20M /dev/urandom >/pccehr/bulk; sync`

// backupIDs are the IDs of the backups that are to be restored, by their backend.
type backupIDs map[string]any

// withBackend completes a command line that backupCall or restoreCall begins: with the arguments that choose a backend
// and, for a restore, with the ID of the backup, if there is one.
func (ids backupIDs) withBackend(call, backend string) string {
	call += repositories[backend]
	if id := ids[backend]; id != nil && strings.HasPrefix(call, restoreCall) {
		call += fmt.Sprintf(" restore_id=%v", id)
	}
	return call
}

// prepareBackupFaults makes the repositories, one backup with the given backend, or with each one if -torture is set,
// and then harm. It returns the IDs of the backups.
func (g guest) prepareBackupFaults(t *testing.T, always string) backupIDs {
	t.Helper()
	ids := backupIDs{}
	g.prepare(t, makeRepositories+"\n"+makeManyFiles, removeRepositories+"; rm -rf /pccehr/bulk /pccehr/many")
	for backend, options := range repositories {
		if backend == always || *torture {
			ids[backend] = g.ok(t, backupCall()+options)["id"]
		}
	}
	g.run(t, harmPccehr)
	return ids
}

// TestBackupKilled kills the run of a backup and of a restore. What the run had begun is undone at once, the origin is
// not changed, and the next run works.
func TestBackupKilled(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "mirror")
	for _, p := range backupInterruptions() {
		if !p.always && !*torture {
			continue
		}
		t.Run(p.failpoint, func(t *testing.T) {
			files := g.run(t, sums)
			checkInterrupted(t, g.module(t, withFailpoint(p.failpoint+" kill")+backups.withBackend(p.call, p.backend)))
			g.eventually(t, "the removal of all that was left", "test -z \"$("+listLeftovers+")\"", settleLimit)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			if strings.HasPrefix(p.call, backupCall()) {
				if last := g.lastBackup(t, "backup", p.backend); last["state"] != "interrupted" {
					t.Errorf("what the server has recorded of the killed backup: %v", last)
				}
			}
			g.checkWorksAgain(t, backups.withBackend(p.call, p.backend))
			t.Logf("killed at %q with %s: nothing is left, the origin is not changed, and the next run works",
				p.failpoint, p.backend)
		})
	}
}

// checkWorksAgain makes the same call once more, which must succeed, and removes the set of a restore.
func (g guest) checkWorksAgain(t *testing.T, call string) {
	t.Helper()
	g.ok(t, call)
	if strings.HasPrefix(call, restoreCall) {
		g.ok(t, "lvm_snapshot name=restore state=absent")
	}
	g.checkNothingLeft(t)
}

// TestBackendKilled kills the backend, or the tool that it runs, and leaves the run alone. The run fails with a hint,
// and the next one works.
func TestBackendKilled(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "restic")
	cases := []struct {
		name, call, backend string
		failpoint           string // the run hangs here when the victim is killed; "": it is killed as soon as it exists
		victim              string // a pattern of its command line
		always              bool   // also without -torture
	}{
		{"backend of a backup", backupCall(), "mirror", "backup.mounted", "^[^ ]*rewind-[^ ]* backend mirror", false},
		{"backend of a restore", restoreCall, "mirror", "restore.writing", "^[^ ]*rewind-[^ ]* backend mirror", false},
		{"restic under a restore", restoreCall, "restic", "restore.writing", "^restic .*mount", true},
		{"restic under a backup", backupCall(), "restic", "", "^restic .*backup --one-file-system", false},
		{"rsync under a backup", backupCall(), "rsync", "", "^rsync .* -x -R ", false},
	}
	for _, c := range cases {
		if !c.always && !*torture {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			files := g.run(t, sums)
			call := backups.withBackend(c.call, c.backend)
			strike := killWhenSeen(c.victim)
			if c.failpoint != "" {
				strike = withFailpoint(c.failpoint + " hang")
			}
			begun := g.start(t, strike+call)
			if c.failpoint != "" {
				g.eventually(t, "the failpoint", failpointReached, reachLimit)
				g.run(t, "pkill -KILL -f '"+c.victim+"'; "+releaseFailpoint)
			}
			r := begun.result(t)
			if !r.failed() || r.hint() == "" {
				t.Errorf("the result is %v", r)
			}
			g.checkNothingLeft(t)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			g.checkWorksAgain(t, call)
			t.Logf("%s killed: %s: %s", c.name, r.code(), r.msg())
		})
	}
}

// killWhenSeen returns shell text that waits in the background for a process whose command line matches the pattern,
// and kills it. It is put before a module's command line.
func killWhenSeen(pattern string) string {
	return "(until pkill -KILL -f '" + pattern + "'; do :; done) & "
}

// atRestoreFilled is the failpoint of a restore whose set is filled and whose rollback has not begun.
const atRestoreFilled = "restore.filled"

// mergeFailpoints are where a restore with merge=true is interrupted: before its rollback, and before and after the
// point of no return. All other steps of a rollback are the same without a restore: TestKilledAtEveryStep and
// TestPowerCutAtEveryStep interrupt them.
var mergeFailpoints = []string{atRestoreFilled, "command.lvconvert.started", "rollback.mounting"}

// TestRestoreInterruptedInMerge kills the run of a restore, or cuts the power, around the merge of its set. In the end
// both volumes hold what the backup holds, and nothing of the restore is left.
func TestRestoreInterruptedInMerge(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "mirror")
	const files = "find /pccehr/many -type f | wc -l; test ! -e /pccehr/bulk && echo no bulk"
	call := backups.withBackend(restoreCall, "mirror") + " merge=true services=postgresql,pccehr"
	strikes := []struct {
		how    string
		strike func(failpoint string)
	}{
		{"killed", func(failpoint string) {
			checkInterrupted(t, g.module(t, withFailpoint(failpoint+" kill")+call))
		}},
		{"power cut", func(failpoint string) {
			c := g.start(t, withFailpoint(failpoint+" hang")+call)
			g.eventually(t, "the failpoint", failpointReached, reachLimit)
			c.dropConnection(t)
			g.cutPower(t)
		}},
	}
	for _, s := range strikes {
		for _, failpoint := range mergeFailpoints {
			if s.how == "power cut" && failpoint == "command.lvconvert.started" {
				continue // it is left to chance whether LVM has begun to merge by then
			}
			t.Run(s.how+" at "+failpoint, func(t *testing.T) {
				s.strike(failpoint)
				if failpoint == atRestoreFilled {
					g.ok(t, call) // it finds the set, and uses it
				}
				g.eventually(t, "the backup's files on the volumes, and running services",
					allActive+" && psql -Atd dat -c 'select 1' && "+
						"test \"$("+files+")\" = \"$(printf '200\\nno bulk')\"", settleLimit)
				g.ok(t, "lvm_merge name=restore services=postgresql,pccehr wait=true")
				g.checkNothingLeft(t)
				g.checkTidy(t)
				g.run(t, harmPccehr)
				t.Logf("%s at %q: the volumes hold the backup's files, and the services run", s.how, failpoint)
			})
		}
	}
}

// TestBackupPowerCut cuts the power in the middle of a backup and of a restore. The next run settles it and works.
func TestBackupPowerCut(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	backups := g.prepareBackupFaults(t, "")
	for _, p := range backupInterruptions() {
		t.Run(p.failpoint, func(t *testing.T) {
			g.run(t, "sync")
			files := g.run(t, sums)
			c := g.start(t, withFailpoint(p.failpoint+" hang")+backups.withBackend(p.call, p.backend))
			g.eventually(t, "the failpoint", failpointReached, reachLimit)
			c.dropConnection(t)
			g.cutPower(t)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			g.checkWorksAgain(t, backups.withBackend(p.call, p.backend))
			t.Logf("power cut at %q with %s: the next run settles it and works", p.failpoint, p.backend)
		})
	}
}

// TestBackupOverflow has a snapshot overflow while a backend reads it. The backup fails, and is not listed.
func TestBackupOverflow(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories, removeRepositories+"; rm -f /pccehr/bulk")
	for _, backend := range []string{"mirror", "restic", "rsync"} {
		if backend != "mirror" && !*torture {
			continue
		}
		c := g.start(t, withFailpoint("backup.stored hang")+"snap_backup volumes=/pccehr size=8m "+repositories[backend])
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		g.run(t, overflowPccehr+"; "+releaseFailpoint)
		r := c.result(t)
		if r.code() != "snapshot_invalid" {
			t.Errorf("%s: the result is %v", backend, r)
		}
		if list := g.ok(t, "snap_backup_info "+repositories[backend]).rows("backups"); len(list) != 0 {
			t.Errorf("%s: the backup of the overflowed snapshot is still listed: %v", backend, list)
		}
		g.checkNothingLeft(t)
		t.Logf("%s: the snapshot overflowed while it was read: %s", backend, r.msg())
	}
}

// TestRestoreWithoutRoom gives a restore less room than it needs. It is refused before anything is created if that can
// be known, a snapshot is extended as long as there is room, and the restore is undone if there is no more.
func TestRestoreWithoutRoom(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeRepositories,
		"lvremove -qqy vg00/full 2>/dev/null; "+removeRepositories+"; rm -f /pccehr/bulk /pccehr/large")
	g.run(t, "head -c 90M /dev/urandom >/pccehr/large; sync")
	g.ok(t, "snap_backup volumes=/pccehr "+repositories["mirror"])
	g.run(t, "rm /pccehr/large; sync")
	free := strings.TrimSpace(g.run(t, "vgs --noheadings --units b --nosuffix -o vg_free vg00"))

	t.Run("known before", func(t *testing.T) {
		g.run(t, "lvcreate -qqy -n full -L $(( ("+free+" - 60*1024*1024) / 4194304 * 4 ))m vg00")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg00/full") })
		before := g.run(t, devices)
		r := g.fails(t, "snap_backup action=restore "+repositories["mirror"], "no_space")
		g.checkUnchanged(t, before)
		t.Logf("refused before anything was created: %s", r.msg())
	})
	t.Run("extended", func(t *testing.T) {
		g.ok(t, "snap_backup action=restore size=20m "+repositories["mirror"])
		g.ok(t, "lvm_snapshot name=restore state=mounted")
		g.run(t, "test $(stat -c %s /run/rewind/mounts/restore/vg00/pccehr/large) = 94371840")
		g.ok(t, "lvm_snapshot name=restore state=absent")
		t.Log("a snapshot with 20 MiB of COW space was extended in time for 90 MiB")
	})
	t.Run("undone", func(t *testing.T) {
		g.run(t, "lvcreate -qqy -n full -L $(( ("+free+" - 60*1024*1024) / 4194304 * 4 ))m vg00")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg00/full") })
		before, files := g.run(t, devices), g.run(t, sums)
		r := g.fails(t, "snap_backup action=restore size=20m "+repositories["mirror"], "no_space")
		g.checkUnchanged(t, before)
		if now := g.run(t, sums); now != files {
			t.Error("the origin was touched")
		}
		g.checkNothingLeft(t)
		t.Logf("no room left while the snapshot was filled: %s", r.msg())
	})
}

// TestExternalBackend backs up and restores with the example backend, a program of its own. It is refused if its
// checksum is another one, and if anybody but root could change it.
func TestExternalBackend(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "mkdir -p /usr/local/lib/rewind/backends /srv/tar && "+
		"cp /usr/local/bin/backends/tar /usr/local/lib/rewind/backends/",
		forgetBackups+"rm -rf /usr/local/lib/rewind /srv/tar; rm -f /pccehr/bulk")
	const options = "backend=tar backend_options=path=/srv/tar"
	sum := fields(g.run(t, "sha256sum /usr/local/lib/rewind/backends/tar"))[0]
	g.ok(t, "snap_backup volumes=/pccehr "+options+" backend_sha256="+sum)
	files := g.run(t, sums)
	g.run(t, harmPccehr)
	g.ok(t, "snap_backup action=restore merge=true services=pccehr wait=true "+options)
	if now := g.run(t, sums); now != files {
		t.Error("the files are not what they were")
	}
	g.fails(t, "snap_backup volumes=/pccehr "+options+" backend_sha256="+strings.Repeat("0", 64), "backend_untrusted")
	g.run(t, "chmod 777 /usr/local/lib/rewind/backends")
	r := g.fails(t, "snap_backup volumes=/pccehr "+options, "backend_untrusted")
	g.run(t, "chmod 755 /usr/local/lib/rewind/backends; chmod 644 /usr/local/lib/rewind/backends/tar")
	g.fails(t, "snap_backup volumes=/pccehr "+options, "backend_untrusted")
	g.checkNothingLeft(t)
	t.Logf("an external backend works, and is refused: %s", r.msg())
}
