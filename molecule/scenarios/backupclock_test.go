//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// TestClockRanAhead makes a backup while the server's clock is ten days ahead, and then sets the clock right again.
func TestClockRanAhead(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, `mkdir /srv/mirror && echo before >/pccehr/clock && echo $(($(date +%s) + 86400)) >/run/tomorrow`,
		forgetBackups+
			`[ $(date +%s) -lt $(cat /run/tomorrow) ] || date -s '-10 days' >/dev/null; rm -rf /srv/mirror /pccehr/clock`)
	with := " " + repositories["mirror"]
	backUp := "snap_backup volumes=/pccehr keep=2" + with

	first := g.ok(t, backUp)
	g.run(t, "date -s '+10 days'")
	future := g.ok(t, backUp)
	// The file changes and keeps its size and its time: only its content tells it from that backup's.
	g.run(t, "date -s '-10 days'; touch -r /pccehr/clock /run/clock; echo after. >/pccehr/clock; "+
		"touch -r /run/clock /pccehr/clock; sync")
	checked := g.ok(t, "snap_backup action=check"+with)
	if last, _ := checked["last"].(map[string]any); last["id"] != first["id"] {
		t.Errorf("the last backup is %v, want %v", last["id"], first["id"])
	}
	if age, _ := checked["age_seconds"].(float64); age < 1 {
		t.Errorf("the last backup is %v seconds old", checked["age_seconds"])
	}
	planned := g.ok(t, "snap_backup action=restore --check"+with)
	if planned["restore_id"] != first["id"] {
		t.Errorf("latest is %v, want %v", planned["restore_id"], first["id"])
	}
	info := g.ok(t, "snap_backup_info"+with)
	for name, r := range map[string]result{"check": checked, "restore": planned, "list": info} {
		said := fmt.Sprint(r["warnings"])
		if !strings.Contains(said, "dated later than now") || !strings.Contains(said, fmt.Sprint(future["id"])) {
			t.Errorf("%s does not say which backup is dated later than now: %v", name, r)
		}
	}
	second := g.ok(t, backUp)
	listed := g.ok(t, "snap_backup_info"+with).rows("backups")
	var ids []any
	for _, b := range listed {
		ids = append(ids, b["id"])
		if (b["dated_in_future"] == true) != (b["id"] == future["id"]) {
			t.Errorf("listed: %v", b)
		}
	}
	if want := []any{second["id"], future["id"], first["id"]}; fmt.Sprint(ids) != fmt.Sprint(want) {
		t.Errorf("keep=2 has left %v, want %v", ids, want)
	}
	stored := g.run(t, fmt.Sprintf("cat /srv/mirror/*/%s/pccehr/clock", second["id"]))
	if strings.TrimSpace(stored) != "after." {
		t.Errorf("the backup after that one holds %q", stored)
	}
}

// TestClockAheadRemovesNoLockOfAnotherHost has another host store in a restic repository while this server's clock is
// an hour ahead: by that clock the other host's lock looks like one of a program that died.
func TestClockAheadRemovesNoLockOfAnotherHost(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	const restic = "restic -r /srv/restic -p /root/restic.pw --no-lock "
	// The other host is a restic in a UTS namespace of its own. It is stopped, so that it does not see this clock.
	g.prepare(t, makeRepositories+"\n"+`mkfifo /run/stored
		(unshare --uts sh -c 'hostname elsewhere; echo $$ >/run/elsewhere.pid
		exec restic -r /srv/restic -p /root/restic.pw backup --stdin' </run/stored >/dev/null 2>&1 &)
		exec 9>/run/stored
		for i in $(seq 60); do [ "$(`+restic+`list locks)" ] && break; sleep 1; done
		date +%s >/run/before; kill -STOP $(cat /run/elsewhere.pid)`,
		`kill -KILL $(cat /run/elsewhere.pid); rm /run/stored
		[ $(date +%s) -lt $(($(cat /run/before) + 3600)) ] || date -s '-1 hour' >/dev/null
		`+removeRepositories)
	lock := strings.TrimSpace(g.run(t, restic+"list locks"))
	if lock == "" {
		t.Fatal("the other host has no lock in the repository")
	}
	g.run(t, "date -s '+1 hour'")
	g.ok(t, "snap_backup volumes=/pccehr "+repositories["restic"])
	if after := strings.TrimSpace(g.run(t, restic+"list locks")); after != lock {
		t.Errorf("the locks are %q, want that of the other host: %s", after, lock)
	}
}
