//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// patients is a script that prints the number of rows in the database on /dat.
const patients = `psql -Atd dat -c "select count(*) from patient"`

// sums is a script that prints one checksum over all files on /pccehr but the application's log.
const sums = `cd /pccehr && find . -type f ! -name '*.log' -print0 | sort -z | xargs -0 sha256sum | sha256sum`

// noRunLeft is a shell condition: no process of any run is left, not even a poller of LVM.
const noRunLeft = "! ls -d /sys/fs/cgroup/system.slice/rewind-2*.service"

// TestRollback takes a set, does harm, and rolls back with one call.
func TestRollback(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	before, files := g.run(t, patients), g.run(t, sums)
	g.ok(t, "lvm_snapshot volumes=/dat,/pccehr")
	g.run(t, `psql -d dat -qc "delete from patient where id % 3 = 0"
find /pccehr -type f ! -name '*.log' | head -20 | xargs rm; sync`)
	if g.run(t, patients) == before {
		t.Fatal("the harm did nothing")
	}
	// The merge takes a while, so that the call shows progress.
	g.run(t, "dd if=/dev/urandom of=/pccehr/bulk bs=1M count=40 conv=fsync status=none")
	g.run(t, "script -qec 'lvm_merge services=pccehr,postgresql wait=true' /run/terminal >/dev/null </dev/null")
	if !strings.Contains(g.run(t, "cat -v /run/terminal; rm /run/terminal"), "%") {
		t.Error("the call showed no progress on the terminal")
	}
	r := g.ok(t, "lvm_merge services=pccehr,postgresql wait=true")
	if got := g.run(t, patients); got != before {
		t.Errorf("%s patients after the rollback, %s before", got, before)
	}
	if got := g.run(t, sums); got != files {
		t.Errorf("files after the rollback are %s, before %s", got, files)
	}
	g.run(t, allActive)
	g.run(t, "test -z \"$(lvs --noheadings -o origin vg00 | tr -d ' \\n')\" && ! ls /etc/systemd/system | grep rewind")
	g.eventually(t, "the end of the run with all that it started", noRunLeft, 10*time.Second)
	if again := g.ok(t, "lvm_merge services=pccehr,postgresql"); again["changed"] != false {
		t.Errorf("the second run says changed: %v", again)
	}
	t.Logf("%s patients and all files are back; services were down for %v ms", before, r["downtime_ms"])
}
