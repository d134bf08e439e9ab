//go:build lab

package scenarios

import (
	"fmt"
	"testing"
)

// TestRollbackBetweenBackups takes a set, changes a file so that its size and its mtime stay the same, makes a backup,
// and rolls back to the set. The merge sets the file's ctime back to one that is older than the backup. The next backup
// must store the file as it is on the volume, a restore of the first backup must bring back the file as it was then,
// and neither may read the files that are the same.
func TestRollbackBetweenBackups(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	const forge = `echo %s >/pccehr/rolled && touch -d '2001-02-03 04:05:06' /pccehr/rolled && sync`
	// A file that was changed in the last seconds before a backup is read by the next backup in any case.
	const changeIsOld = `[ $(($(date +%s) - $(stat -c %Z /pccehr/rolled))) -gt 4 ]`
	g.prepare(t, makeRepositories+"\n"+fmt.Sprintf(forge, "before"), removeRepositories+"; rm -f /pccehr/rolled")
	t.Cleanup(func() {
		g.run(t, "lvm_snapshot state=absent name=rolled; lvm_snapshot state=absent name=restore; true")
	})
	g.ok(t, "lvm_snapshot volumes=/pccehr name=rolled")
	g.run(t, fmt.Sprintf(forge, "during"))
	g.eventually(t, "a change that is some seconds old", changeIsOld, reachLimit)
	backends := []string{"mirror", "rsync"}
	if *torture {
		backends = append(backends, "restic")
	}
	first := map[string]string{}
	for _, backend := range backends {
		first[backend] = fmt.Sprint(g.ok(t, "snap_backup volumes=/pccehr "+repositories[backend])["id"])
	}
	g.ok(t, "lvm_merge name=rolled services=pccehr wait=true")
	if now := g.run(t, "cat /pccehr/rolled"); now != "before" {
		t.Fatalf("after the rollback the file holds %q", now)
	}
	for _, backend := range []string{"mirror", "rsync"} {
		second := fmt.Sprint(g.ok(t, "snap_backup volumes=/pccehr "+repositories[backend])["id"])
		name := map[string]string{"mirror": second, "rsync": second[:len("20060102T150405Z")]}[backend]
		if stored := g.run(t, "cat /srv/"+backend+"/*/"+name+"/pccehr/rolled"); stored != "before" {
			t.Errorf("%s: the backup after the rollback holds %q, and the volume \"before\"", backend, stored)
		}
	}
	for _, backend := range backends {
		if backend == "rsync" { // it presents the stored trees themselves, as mirror does
			continue
		}
		r := g.ok(t, "snap_backup action=restore restore_id="+first[backend]+" "+repositories[backend])
		if r["changed"] != true {
			t.Errorf("%s: a restore of the backup before the rollback finds nothing to do: %s", backend, r.msg())
			continue
		}
		g.ok(t, "lvm_snapshot name=restore state=mounted")
		if restored := g.run(t, "cat $(find /run/rewind/mounts/restore -name rolled)"); restored != "during" {
			t.Errorf("%s: restored is %q, and the backup holds \"during\"", backend, restored)
		}
		g.ok(t, "lvm_snapshot name=restore state=unmounted")
		g.ok(t, "lvm_snapshot name=restore state=absent")
		if row := r.rows("restored")[0]; row["compared_bytes"].(float64) > 1<<20 {
			t.Errorf("%s: %v bytes were read to find a file that differs and a log that grows", backend, row["compared_bytes"])
		}
	}
	r := g.ok(t, "snap_backup action=restore compare=content restore_id="+first["mirror"]+" "+repositories["mirror"])
	if row := r.rows("restored")[0]; row["compared_bytes"].(float64) < 4<<20 { // there are files of some MB
		t.Errorf("with compare=content %v bytes were compared", row["compared_bytes"])
	}
	t.Log("after a rollback a change that kept size and date is found, and what is the same is not read")
}
