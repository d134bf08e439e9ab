//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// restore is the restore that is interrupted.
const restore = "snap_backup action=restore "

// backUp is the backup that is interrupted: without -torture of the smaller volume alone.
func backUp() string {
	if *torture {
		return "snap_backup volumes=/dat,/pccehr "
	}
	return "snap_backup volumes=/pccehr "
}

// backupPlace is where a backup, or a restore, is interrupted.
type backupPlace struct {
	name    string
	words   string
	backend string
	always  bool // also without -torture
}

func backupPlaces() []backupPlace {
	return []backupPlace{
		{"backup.taken", backUp(), "mirror", false},
		{"backup.mounted", backUp(), "restic", false},
		{"backup.stored", backUp(), "mirror", true},
		{"restore.taken", restore, "rsync", false},
		{"restore.writing", restore, "mirror", true},
		{"restore.gate#20", restore, "restic", false},
	}
}

// beforeFaults are files of which many are missing after harmMore, so that a restore writes for a while.
const beforeFaults = `mkdir -p /pccehr/many && for i in $(seq 200); do echo $i >/pccehr/many/$i; done; sync`

const harmMore = `rm -rf /pccehr/many; head -c 20M /dev/urandom >/pccehr/bulk; sync`

// made are the backups that restores take, by their backend.
type made map[string]any

// with is an action with a backend: words as they are followed by its options, and a restore's by the backup that it takes.
func (m made) with(words, backend string) string {
	words += repositories[backend]
	if id := m[backend]; id != nil && strings.HasPrefix(words, restore) {
		words += fmt.Sprintf(" restore_id=%v", id)
	}
	return words
}

// forBackupFaults makes the repositories, one backup in each of those that are restored from, and then harm.
func (g guest) forBackupFaults(t *testing.T, always string) made {
	t.Helper()
	m := made{}
	g.scratch(t, makeRepositories+"\n"+beforeFaults, removeRepositories+"; rm -rf /pccehr/bulk /pccehr/many")
	for backend, options := range repositories {
		if backend == always || *torture {
			m[backend] = g.ok(t, backUp()+options)["id"]
		}
	}
	g.run(t, harmMore)
	return m
}

// TestBackupKilled kills the journey of a backup and of a restore; what it began is undone at once, and the next run
// works. The origin is untouched.
func TestBackupKilled(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	backups := g.forBackupFaults(t, "mirror")
	for _, p := range backupPlaces() {
		if !p.always && !*torture {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			files := g.run(t, sums)
			r := g.module(t, armed(p.name+" kill")+backups.with(p.words, p.backend))
			if r.code() != "interrupted" {
				t.Errorf("the result of a killed journey is %v", r)
			}
			g.eventually(t, "nothing left", "test -z \"$("+nothingLeft+")\"", settled)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			if strings.HasPrefix(p.words, backUp()) {
				if kept := g.lastBackup(t, "backup", p.backend); kept["state"] != "interrupted" {
					t.Errorf("what is kept of the killed backup: %v", kept)
				}
			}
			g.worksAgain(t, backups.with(p.words, p.backend))
			t.Logf("killed at %q with %s: nothing is left, the origin is untouched, and the next run works", p.name, p.backend)
		})
	}
}

// worksAgain makes the same run once more, and takes its set away.
func (g guest) worksAgain(t *testing.T, words string) {
	t.Helper()
	g.ok(t, words)
	if strings.HasPrefix(words, restore) {
		g.ok(t, "lvm_snapshot name=restore state=absent")
	}
	g.nothingLeft(t)
}

// TestBackendKilled kills the backend, and the tool that it runs, while the journey lives: a failure that says so.
func TestBackendKilled(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	backups := g.forBackupFaults(t, "restic")
	cases := []struct {
		name, words, backend string
		place                string // where the journey stands when the victim is killed; "": the victim, as soon as there is one
		victim               string // of the command line
		always               bool
	}{
		{"backend of a backup", backUp(), "mirror", "backup.mounted", "^[^ ]*rewind-[^ ]* backend mirror", false},
		{"backend of a restore", restore, "mirror", "restore.writing", "^[^ ]*rewind-[^ ]* backend mirror", false},
		{"restic under a restore", restore, "restic", "restore.writing", "^restic .*mount", true},
		{"restic under a backup", backUp(), "restic", "", "^restic .*backup --one-file-system", false},
		{"rsync under a backup", backUp(), "rsync", "", "^rsync .* -x -R ", false},
	}
	for _, c := range cases {
		if !c.always && !*torture {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			files := g.run(t, sums)
			words := backups.with(c.words, c.backend)
			if c.place == "" {
				words = whenSeen(c.victim) + words
			} else {
				words = armed(c.place+" hang") + words
			}
			call := g.start(t, words)
			if c.place != "" {
				g.eventually(t, "the failpoint", atPlace, reachLimit)
				g.run(t, "pkill -KILL -f '"+c.victim+"'; "+goOn)
			}
			r := call.result(t)
			if !r.failed() || r.hint() == "" {
				t.Errorf("the result is %v", r)
			}
			g.nothingLeft(t)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			g.worksAgain(t, backups.with(c.words, c.backend))
			t.Logf("%s killed: %s: %s", c.name, r.code(), r.msg())
		})
	}
}

// whenSeen kills a process as soon as there is one. It is put before the module's words.
func whenSeen(pattern string) string {
	return "(until pkill -KILL -f '" + pattern + "'; do :; done) & "
}

// filled is where a restore is interrupted when its set is filled, and its rollback has not begun.
const filled = "restore.filled"

// mergePlaces are where a restore is interrupted that goes on to its rollback: before and past the point of no return.
// Every other step of a rollback is TestKilledAtEveryStep's and TestPowerCutAtEveryStep's: it is the same there.
var mergePlaces = []string{filled, "command.lvconvert.started", "rollback.mounting"}

// TestRestoreInterruptedInMerge kills the journey of a restore, and cuts the power, when its set is being merged: both
// volumes end with the backup, and nothing of the restore is left.
func TestRestoreInterruptedInMerge(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	backups := g.forBackupFaults(t, "mirror")
	const files = "find /pccehr/many -type f | wc -l; test ! -e /pccehr/bulk && echo no bulk"
	words := backups.with(restore, "mirror") + " merge=true services=postgresql,pccehr"
	strikes := []struct {
		how    string
		strike func(place string)
	}{
		{"killed", func(place string) {
			r := g.module(t, armed(place+" kill")+words)
			if r.code() != "interrupted" {
				t.Errorf("the result of a killed journey is %v", r)
			}
		}},
		{"power cut", func(place string) {
			c := g.start(t, armed(place+" hang")+words)
			g.eventually(t, "the failpoint", atPlace, reachLimit)
			c.drop(t)
			g.cut(t)
		}},
	}
	for _, s := range strikes {
		for _, place := range mergePlaces {
			if s.how == "power cut" && place == "command.lvconvert.started" {
				continue // whether LVM has begun by then is chance
			}
			t.Run(s.how+" at "+place, func(t *testing.T) {
				s.strike(place)
				if place == filled {
					g.ok(t, words) // the set is there, and is used again
				}
				g.eventually(t, "the backup on its volumes, and running services",
					active+" && psql -Atd dat -c 'select 1' && test \"$("+files+")\" = \"$(printf '200\\nno bulk')\"", settled)
				g.ok(t, "lvm_merge name=restore services=postgresql,pccehr wait=true")
				g.nothingLeft(t)
				g.tidy(t)
				g.run(t, harmMore)
				t.Logf("%s at %q: the backup is on its volumes, and the services run", s.how, place)
			})
		}
	}
}

// TestBackupPowerCut cuts the power in a backup and in a restore.
func TestBackupPowerCut(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	backups := g.forBackupFaults(t, "")
	for _, p := range backupPlaces() {
		t.Run(p.name, func(t *testing.T) {
			g.run(t, "sync")
			files := g.run(t, sums)
			c := g.start(t, armed(p.name+" hang")+backups.with(p.words, p.backend))
			g.eventually(t, "the failpoint", atPlace, reachLimit)
			c.drop(t)
			g.cut(t)
			if now := g.run(t, sums); now != files {
				t.Error("the origin was touched")
			}
			g.worksAgain(t, backups.with(p.words, p.backend))
			t.Logf("power cut at %q with %s: the next run settles it and works", p.name, p.backend)
		})
	}
}

// TestBackupOverflow has a snapshot overflow while it is read: a failure, and no backup.
func TestBackupOverflow(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, makeRepositories, removeRepositories+"; rm -f /pccehr/bulk")
	for _, backend := range []string{"mirror", "restic", "rsync"} {
		if backend != "mirror" && !*torture {
			continue
		}
		c := g.start(t, armed("backup.stored hang")+"snap_backup volumes=/pccehr size=8m "+repositories[backend])
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		g.run(t, overflowPccehr+"; "+goOn)
		r := c.result(t)
		if r.code() != "snapshot_invalid" {
			t.Errorf("%s: the result is %v", backend, r)
		}
		if list := g.ok(t, "snap_backup_info "+repositories[backend]).rows("backups"); len(list) != 0 {
			t.Errorf("%s: what was read of it is still listed: %v", backend, list)
		}
		g.nothingLeft(t)
		t.Logf("%s: overflowed while it was read: %s", backend, r.msg())
	}
}

// TestRestoreWithoutRoom gives a restore less room than it needs: refused before anything is created where that can be
// known, extended as long as there is room, undone where there is not.
func TestRestoreWithoutRoom(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, makeRepositories, "lvremove -qqy vg00/full 2>/dev/null; "+removeRepositories+"; rm -f /pccehr/bulk /pccehr/large")
	g.run(t, "head -c 90M /dev/urandom >/pccehr/large; sync")
	g.ok(t, "snap_backup volumes=/pccehr "+repositories["mirror"])
	g.run(t, "rm /pccehr/large; sync")
	free := strings.TrimSpace(g.run(t, "vgs --noheadings --units b --nosuffix -o vg_free vg00"))

	t.Run("known before", func(t *testing.T) {
		g.run(t, "lvcreate -qqy -n full -L $(( ("+free+" - 60*1024*1024) / 4194304 * 4 ))m vg00")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg00/full") })
		before := g.run(t, devices)
		r := g.fails(t, "snap_backup action=restore "+repositories["mirror"], "no_space")
		g.unchanged(t, before)
		t.Logf("refused before anything was created: %s", r.msg())
	})
	t.Run("extended", func(t *testing.T) {
		g.ok(t, "snap_backup action=restore size=20m "+repositories["mirror"])
		g.ok(t, "lvm_snapshot name=restore state=mounted")
		g.run(t, "test $(stat -c %s /run/rewind/mounts/restore/vg00/pccehr/large) = 94371840")
		g.ok(t, "lvm_snapshot name=restore state=absent")
		t.Log("a COW of 20 MiB was extended in time for 90 MiB")
	})
	t.Run("undone", func(t *testing.T) {
		g.run(t, "lvcreate -qqy -n full -L $(( ("+free+" - 60*1024*1024) / 4194304 * 4 ))m vg00")
		t.Cleanup(func() { g.run(t, "lvremove -qqy vg00/full") })
		before, files := g.run(t, devices), g.run(t, sums)
		r := g.fails(t, "snap_backup action=restore size=20m "+repositories["mirror"], "no_space")
		g.unchanged(t, before)
		if now := g.run(t, sums); now != files {
			t.Error("the origin was touched")
		}
		g.nothingLeft(t)
		t.Logf("no room left while it was filled: %s", r.msg())
	})
}

// TestExternalBackend uses the example backend as a program of its own, and refuses it where others could change it.
func TestExternalBackend(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, "mkdir -p /usr/local/lib/rewind/backends /srv/tar && cp /usr/local/bin/backends/tar /usr/local/lib/rewind/backends/",
		"rm -rf /usr/local/lib/rewind /srv/tar; rm -f /pccehr/bulk")
	const options = "backend=tar backend_options=path=/srv/tar"
	sum := fields(g.run(t, "sha256sum /usr/local/lib/rewind/backends/tar"))[0]
	g.ok(t, "snap_backup volumes=/pccehr "+options+" backend_sha256="+sum)
	files := g.run(t, sums)
	g.run(t, harmMore)
	g.ok(t, "snap_backup action=restore merge=true services=pccehr wait=true "+options)
	if now := g.run(t, sums); now != files {
		t.Error("the files are not what they were")
	}
	g.fails(t, "snap_backup volumes=/pccehr "+options+" backend_sha256="+strings.Repeat("0", 64), "backend_untrusted")
	g.run(t, "chmod 777 /usr/local/lib/rewind/backends")
	r := g.fails(t, "snap_backup volumes=/pccehr "+options, "backend_untrusted")
	g.run(t, "chmod 755 /usr/local/lib/rewind/backends; chmod 644 /usr/local/lib/rewind/backends/tar")
	g.fails(t, "snap_backup volumes=/pccehr "+options, "backend_untrusted")
	g.nothingLeft(t)
	t.Logf("an external backend works, and is refused: %s", r.msg())
}
