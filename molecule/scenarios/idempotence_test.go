//go:build lab

package scenarios

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCheckChangesNothing makes each call with --check, which changes nothing, and twice: the second time changes
// nothing.
func TestCheckChangesNothing(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, "mkdir -p /pccehr/d; echo old > /pccehr/d/changed; echo old > /pccehr/d/deleted; sync",
		"lvm_snapshot state=absent >/dev/null 2>&1; rm -rf /pccehr/d")
	// check makes a call with --check. It must change nothing, and say that the call without --check would.
	check := func(call string) result {
		t.Helper()
		out := g.run(t, showState+"echo ----\n"+call+" --check --diff --json 2>/dev/null\necho ----\n"+showState)
		parts := strings.Split(out, "----\n")
		var r result
		if err := json.Unmarshal([]byte(parts[1]), &r); err != nil {
			t.Fatalf("%s: %v\n%s", call, err, out)
		}
		if strings.TrimSpace(parts[0]) != strings.TrimSpace(parts[2]) {
			t.Errorf("%s --check changed something:\n%s\nbefore:\n%s", call, parts[2], parts[0])
		}
		if r["changed"] != true {
			t.Errorf("%s --check says that nothing is to be done: %s", call, r)
		}
		return r
	}
	check("lvm_snapshot volumes=/dat,/pccehr")
	taken := g.callEach(t, "lvm_snapshot volumes=/dat,/pccehr size=200m", "lvm_snapshot volumes=/dat,/pccehr size=200m")
	if taken[0]["changed"] != true || taken[1]["changed"] != false || taken[0]["id"] != taken[1]["id"] {
		t.Errorf("the second run: %s\nthe first: %s", taken[1], taken[0])
	}
	g.run(t, "echo newer > /pccehr/d/changed; rm /pccehr/d/deleted; echo new > /pccehr/d/new; sync")
	r := check("lvm_merge services=postgresql,pccehr")
	diff, _ := r["diff"].(map[string]any)
	before, _ := diff["before"].(string)
	after, _ := diff["after"].(string)
	for path, listed := range map[string]bool{
		"/pccehr/d/changed (changed since)": strings.Contains(before, "/pccehr/d/changed (changed since)"),
		"/pccehr/d/new":                     strings.Contains(before, "/pccehr/d/new\n"),
		"/pccehr/d/deleted":                 strings.Contains(after, "/pccehr/d/deleted\n"),
	} {
		if !listed {
			t.Errorf("the diff does not list %s: %v", path, diff)
		}
	}
	check("lvm_snapshot state=absent")
	check("snap_backup volumes=/dat backend_options=path=/root")
	gone := g.callEach(t, "lvm_snapshot state=absent", "lvm_snapshot state=absent")
	if gone[0]["changed"] != true || gone[1]["changed"] != false {
		t.Errorf("removing twice: %s\n%s", gone[0], gone[1])
	}
	t.Log("--check left LVM's metadata, mounts, units and the journal as they were; its diff lists the files that would " +
		"be discarded; each second call changed nothing")
}
