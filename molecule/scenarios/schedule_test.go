//go:build lab

package scenarios

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestBackupsBySchedule schedules a backup. Its service makes the backup, failures are shown by systemd and by
// lvm_snapshot_info, and action=unschedule removes all of it.
func TestBackupsBySchedule(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	const schedule = "snap_backup action=schedule name=nightly volumes=/pccehr keep=3 "
	g.prepare(t, makeRepositories, `systemctl stop rewind-backup@nightly.timer; systemctl reset-failed
rm -rf /etc/rewind /etc/systemd/system/rewind-backup@* /run/rewind.prom
rm -f /etc/systemd/system/timers.target.wants/rewind-backup@*; systemctl daemon-reload; `+removeRepositories)

	units := `ls -A /etc/rewind /etc/systemd/system /etc/systemd/system/timers.target.wants 2>&1; true`
	before := g.run(t, units)
	g.fails(t, schedule+"calendar=25:00 "+repositories["mirror"], "bad_arguments")
	g.fails(t, schedule+"backend_options=path=/srv/missing", "repository_missing")
	if r := g.ok(t, schedule+repositories["mirror"]+" --check"); r["changed"] != true {
		t.Errorf("a check: %v", r)
	}
	if now := g.run(t, units); now != before {
		t.Errorf("something was changed:\n%s", now)
	}

	const calendar = `calendar="Mon..Sun 03:15" spread=600 `
	g.ok(t, schedule+calendar+repositories["mirror"])
	if r := g.ok(t, schedule+calendar+repositories["mirror"]); r["changed"] != false {
		t.Errorf("the same again: %v", r)
	}
	next := g.run(t, "systemctl list-timers --no-legend rewind-backup@nightly.timer")
	if !strings.Contains(next, " 03:1") && !strings.Contains(next, " 03:2") {
		t.Errorf("the timer is set to another time: %s", next)
	}
	planned := fmt.Sprint(g.ok(t, "lvm_snapshot_info")["backups_scheduled"])
	if !regexp.MustCompile(`^\[map\[name:nightly next:\S+T03:[12]\d:\d\dZ timer:\S+\]\]$`).MatchString(planned) {
		t.Errorf("lvm_snapshot_info does not say when the next backup is made: %s", planned)
	}
	if mode := g.run(t, "stat -c %a:%U /etc/rewind/nightly.json"); mode != "600:root" {
		t.Errorf("the arguments can be read by others: %s", mode)
	}
	g.run(t, "systemctl start rewind-backup@nightly.service")
	if kept := g.lastBackup(t, "nightly", "mirror"); kept["state"] != "ok" {
		t.Errorf("what the server has recorded of the backup by systemd: %v", kept)
	}

	const start = "systemctl start rewind-backup@nightly.service"
	g.run(t, "mv /srv/mirror /srv/elsewhere; ! "+start+"; mkdir /srv/mirror; ! "+start+ // as if its disk were not mounted
		"; rmdir /srv/mirror; mv /srv/elsewhere /srv/mirror")
	failed := g.run(t, "systemctl --failed --no-legend --plain")
	if !strings.Contains(failed, "rewind-backup@nightly.service") {
		t.Errorf("systemd does not show the failure: %s", failed)
	}
	kept := g.lastBackup(t, "nightly", "mirror")
	if kept["state"] != "failed" || kept["code"] != "repository_missing" || kept["good"] == nil {
		t.Errorf("what the server has recorded of the failure: %v", kept)
	}
	if unbegun := g.ok(t, "lvm_snapshot_info").rows("backups_not_begun"); len(unbegun) != 0 {
		t.Errorf("the backup began and failed, and is said not to have begun: %v", unbegun)
	}
	g.run(t, "cd /etc/rewind; cp -p nightly.json kept; echo { >nightly.json; ! "+start+"; mv kept nightly.json")
	if r := g.ok(t, "lvm_snapshot_info"); !hasRow(r.rows("backups_not_begun"), map[string]any{"name": "nightly"}) ||
		!strings.Contains(r.msg(), "scheduled backup nightly did not begin") {
		t.Errorf("the file of its arguments is invalid, and lvm_snapshot_info says %q", r.msg())
	}
	g.ok(t, "lvm_snapshot_info textfile=/run/rewind.prom")
	const sample = `rewind_last_backup_success\{name="nightly",backend="mirror",volumes="/pccehr",place=`
	if metrics := g.run(t, "cat /run/rewind.prom"); !regexp.MustCompile(sample + `"[0-9a-f]*"} 0`).MatchString(metrics) {
		t.Errorf("the metrics do not show the failure:\n%s", metrics)
	}

	g.ok(t, "snap_backup action=unschedule name=nightly")
	if info := g.ok(t, "lvm_snapshot_info").rows("backups_scheduled"); len(info) != 0 {
		t.Errorf("the backup is not scheduled any more, and lvm_snapshot_info names %v", info)
	}
	if left := g.run(t, "systemctl list-timers --all --no-legend rewind-backup@*; ls -A /etc/rewind"); left != "" {
		t.Errorf("left of it: %s", left)
	}
	if r := g.ok(t, "snap_backup action=unschedule name=nightly"); r["changed"] != false {
		t.Errorf("again: %v", r)
	}
	g.checkNothingLeft(t)
}
