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
