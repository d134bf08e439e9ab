//go:build playbooks

package collection

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/service"
)

// judgeScript is a Python program that has the collection's own code (fleet.py) judge servers. On stdin it gets a JSON
// list of pairs of a host and the result of lvm_snapshot_info there, and it prints what the fleet's page shows.
const judgeScript = `
import json, sys
sys.path.insert(0, "../../plugins/plugin_utils")
from fleet import Limits, fleet
hosts = [(host, result, Limits()) for host, result in json.load(sys.stdin)]
json.dump(fleet(hosts, len(hosts), "2026-03-04T05:00:00Z"), sys.stdout)
`

// server is what the fleet's page shows of one server.
type server struct {
	Host, Verdict string
	Why           []string
	Backups       [][]any
}

// fleet is what the fleet's page shows.
type fleet struct {
	Counts map[string]int
	Hosts  []server
}

// judge runs judgeScript on pairs of a host and a result. It also returns the size of the output in bytes.
func judge(t *testing.T, results [][2]any) (f fleet, size int) {
	t.Helper()
	data, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	python := exec.Command("../../build/venv/bin/python", "-c", judgeScript)
	python.Stdin = bytes.NewReader(data)
	out, err := python.Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return f, len(out)
}

// healthy returns the result of lvm_snapshot_info on a server on which nothing is wrong.
func healthy() map[string]any {
	snapshot := map[string]any{
		"snapshot": "vg00/dat_snap", "state": "active", "cow_used_percent": 12.5, "seconds_to_full": 360000,
	}
	backup := map[string]any{
		"name": "nightly", "backend": "restic", "state": "ok", "volumes": []string{"/dat"}, "age_seconds": 10000,
		"good": map[string]any{"volumes": []string{"/dat", "/boot"}},
	}
	return map[string]any{
		"host":   map[string]any{"usable": true, "problems": []string{}},
		"groups": []any{map[string]any{"vg": "vg00", "size_bytes": 1 << 40}},
		"sets": []any{
			map[string]any{"name": "snap", "state": "ok", "age_seconds": 7200, "snapshots": []any{snapshot}},
		},
		"unmanaged": []any{}, "under_way": []any{}, "last_rollback": nil,
		"backups": []any{backup},
	}
}

// toMap converts a part of a result, of the type that the programs print it from, into what Ansible reads.
func toMap(fact any) (m map[string]any) {
	data, err := json.Marshal(fact)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		panic(err)
	}
	return m
}

// part returns the object in a result to which a path of keys leads. From each list on the way it takes the first
// element.
func part(v any, keys ...string) map[string]any {
	for _, key := range keys {
		v = v.(map[string]any)[key]
		if list, ok := v.([]any); ok {
			v = list[0]
		}
	}
	return v.(map[string]any)
}

// TestVerdictOfAServer changes one thing in the result of a healthy server, and checks the verdict and its reason.
func TestVerdictOfAServer(t *testing.T) {
	for _, c := range []struct {
		name, verdict, why string
		change             func(map[string]any)
	}{
		{"all is well", "ok", "", func(map[string]any) {}},
		{"lost", "unreachable", "no route to host", func(r map[string]any) {
			clear(r)
			r["unreachable"], r["msg"] = true, "no\nroute to host"
		}},
		{"failed", "bad", "not root", func(r map[string]any) {
			clear(r)
			r["failed"], r["msg"] = true, "not root"
		}},
		{"another module's", "bad", "no result", func(r map[string]any) {
			clear(r)
			r["ping"] = "pong"
		}},
		{"a container", "warn", "a container", func(r map[string]any) {
			r["host"] = map[string]any{"usable": false, "problems": []string{"this is a container"}}
		}},
		{"a lost disk", "bad", "vg00 lacks a disk", func(r map[string]any) { part(r, "groups")["partial"] = true }},
		{"a sick pool", "bad", "vg00/pool: no data space", func(r map[string]any) {
			part(r, "groups")["pools"] = []any{map[string]any{"pool": "vg00/pool", "problem": "no data space is left"}}
		}},
		{"a pool that fills", "warn", "81 % of its metadata", func(r map[string]any) {
			part(r, "groups")["pools"] = []any{map[string]any{"pool": "vg00/pool", "data_percent": 3, "metadata_percent": 81.2}}
		}},
		{"a set that is bad", "bad", "set snap is incomplete", func(r map[string]any) {
			part(r, "sets")["state"] = "incomplete"
		}},
		{"nearly full", "warn", "80 % full", func(r map[string]any) {
			part(r, "sets", "snapshots")["cow_used_percent"] = 80.0
		}},
		{"soon full", "warn", "full in 2.0 h", func(r map[string]any) {
			part(r, "sets", "snapshots")["seconds_to_full"] = 7200
		}},
		{"nearly full while another set is backed up", "warn", "95 % full", func(r map[string]any) {
			part(r, "sets", "snapshots")["cow_used_percent"] = 95.0
			r["under_way"] = []any{toMap(journey.Status{Kind: "backup", Title: "back up with mirror", Set: "backup"})}
		}},
		{"overflowed", "bad", "vg00/dat_snap: its COW", func(r map[string]any) {
			part(r, "sets", "snapshots")["problem"] = "its COW space overflowed"
		}},
		{"a failed merge", "bad", "merge of vg00/dat_snap failed", func(r map[string]any) {
			part(r, "sets", "snapshots")["merge"] = map[string]any{"state": "failed"}
		}},
		{"a merge at the next boot", "warn", "waits for", func(r map[string]any) {
			part(r, "sets", "snapshots")["merge"] = map[string]any{"state": "deferred", "percent": nil}
		}},
		{"a merge", "ok", "", func(r map[string]any) {
			part(r, "sets", "snapshots")["merge"] = map[string]any{"state": "running", "percent": 3.5}
		}},
		{"no backup", "warn", "no backup is known", func(r map[string]any) { r["backups"] = []any{} }},
		{
			"a backup that does not begin", "bad", "scheduled backup nightly did not begin: journalctl -u x",
			func(r map[string]any) {
				r["backups_not_begun"] = []any{map[string]any{"name": "nightly", "unit": "x"}}
			},
		},
		{
			"a timer that was stopped", "bad", "scheduled backup nightly is not made: its timer",
			func(r map[string]any) {
				r["backups_scheduled"] = []any{
					map[string]any{"name": "nightly", "problem": "its timer is not active"},
					map[string]any{"name": "weekly", "next": "2026-03-05T02:00:00Z"},
				}
			},
		},
		{"a failed backup", "bad", "backup nightly: the repository is full", func(r map[string]any) {
			part(r, "backups")["state"], part(r, "backups")["msg"] = "failed", "the repository is full"
		}},
		{"a killed backup", "bad", "it was interrupted", func(r map[string]any) {
			part(r, "backups")["state"] = "interrupted"
		}},
		{"an old backup", "bad", "no backup nightly of /boot with restic for 37 h", func(r map[string]any) {
			part(r, "backups")["age_seconds"] = 37 * 3600
		}},
		{"never a good one", "bad", "no good backup nightly of /dat with restic", func(r map[string]any) {
			part(r, "backups")["good"], part(r, "backups")["age_seconds"], part(r, "backups")["state"] = nil, nil, "running"
		}},
		{"a good one of the future", "bad", "the last good backup nightly of /boot with restic is dated later than now",
			func(r map[string]any) { part(r, "backups")["age_seconds"] = nil }},
		{
			"a second place that got none for long", "bad", "no backup nightly of /dat with mirror for 138 h",
			func(r map[string]any) {
				r["backups"] = append(r["backups"].([]any), map[string]any{
					"name": "nightly", "backend": "mirror", "state": "ok", "volumes": []string{"/dat"},
					"age_seconds": 500000, "good": map[string]any{"volumes": []string{"/dat"}},
				})
			},
		},
		{
			"a second place of the same backend that got none for long", "bad",
			"no backup nightly of /dat with restic for 138 h (if that place is not used any more, remove /jobs/b.json)",
			func(r map[string]any) {
				part(r, "backups")["place"] = "17"
				r["backups"] = append(r["backups"].([]any), map[string]any{
					"name": "nightly", "backend": "restic", "state": "ok", "volumes": []string{"/dat"}, "place": "42",
					"age_seconds": 500000, "good": map[string]any{"volumes": []string{"/dat"}}, "file": "/jobs/b.json",
				})
			},
		},
		{"a rollback that was left", "bad", "snap was interrupted at step merging", func(r map[string]any) {
			r["last_rollback"] = toMap(rollback.Last{Set: "snap", Outcome: "unfinished", Step: "merging"})
			r["under_way"] = []any{toMap(journey.Status{Kind: "query", Title: "check the repository of mirror"})}
		}},
		{"a rollback under way", "ok", "", func(r map[string]any) {
			r["last_rollback"] = toMap(rollback.Last{Set: "snap", Outcome: "unfinished", Step: "merging"})
			r["under_way"] = []any{toMap(journey.Status{Kind: "rollback", Title: "roll back to set snap"})}
		}},
		{"a rollback that goes on by itself", "ok", "", func(r map[string]any) {
			r["last_rollback"] = toMap(rollback.Last{Set: "snap", Outcome: "unfinished", Step: rollback.StepStarted})
		}},
		{
			"a service that did not start", "warn",
			"set snap these did not start, see whether they run: x.service",
			func(r map[string]any) {
				failures := []service.Failure{{Unit: "x.service"}}
				r["last_rollback"] = toMap(rollback.Last{Set: "snap", Outcome: "done", Failures: failures})
			},
		},
		{"a set that is being made", "ok", "", func(r map[string]any) {
			part(r, "sets")["state"] = "incomplete"
			part(r, "sets", "snapshots")["cow_used_percent"] = 95.0
			r["under_way"] = []any{toMap(journey.Status{Kind: "snapshot", Title: "set snap: present", Set: "snap"})}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			result := healthy()
			c.change(result)
			f, _ := judge(t, [][2]any{{"db1", result}})
			h := f.Hosts[0]
			rightReason := strings.Contains(strings.Join(h.Why, "; "), c.why) && (c.why == "") == (len(h.Why) == 0)
			if h.Verdict != c.verdict || !rightReason {
				t.Errorf("%s, want %s because of %q: %q", h.Verdict, c.verdict, c.why, h.Why)
			}
		})
	}
}

// TestWorstServersComeFirst checks the order of the servers, and that the youngest good backup of each volume is shown,
// whichever job has made it.
func TestWorstServersComeFirst(t *testing.T) {
	two := healthy()
	two["backups"] = append(two["backups"].([]any), map[string]any{"name": "weekly", "backend": "restic", "state": "ok",
		"volumes": []string{"/dat"}, "age_seconds": 100000, "good": map[string]any{"volumes": []string{"/dat"}}})
	unreachable, bad, warn := map[string]any{"unreachable": true}, healthy(), healthy()
	part(bad, "sets")["state"], warn["backups"] = "bad", []any{}
	f, _ := judge(t, [][2]any{{"a", two}, {"b", warn}, {"c", unreachable}, {"d", nil}, {"e", bad}})
	var order []string
	for _, h := range f.Hosts {
		order = append(order, h.Host)
	}
	if got := strings.Join(order, ""); got != "ecdba" || f.Counts["unreachable"] != 2 || f.Counts["ok"] != 1 {
		t.Errorf("%s, %v", got, f.Counts)
	}
	if last := f.Hosts[4]; len(last.Backups) != 2 || last.Backups[1][0] != "/dat" || last.Backups[1][1].(float64) > 3 {
		t.Errorf("backups %v", last.Backups)
	}
}

// TestLimitsAreTheServersOwn checks that a limit that is a template is what the variables of that server make of it,
// and not those of the first one, which writes the page.
func TestLimitsAreTheServersOwn(t *testing.T) {
	olders, err := filepath.Glob("../../build/ansible/*")
	if err != nil {
		t.Fatal(err)
	}
	result := toJSON(healthy())
	for _, ansible := range append(olders, newest) {
		in := installation{t.TempDir(), ansible}
		writeFile(t, filepath.Join(in.dir, "ansible_collections/pcc/README"), "")
		if err := os.Symlink(absolute(t, "../.."), filepath.Join(in.dir, "ansible_collections/pcc/rewind")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(in.dir, "ansible.cfg"), "[defaults]\n")
		writeFile(t, filepath.Join(in.dir, "hosts.yml"), `
all:
  vars: {rewind_backup_hours: "{{ 2 * longest }}"}
  hosts: {one: {longest: 1}, two: {longest: 20}, three: {longest: 1}}
`)
		writeFile(t, filepath.Join(in.dir, "play.yml"), `
- hosts: all
  gather_facts: false
  tasks:
    - set_fact: {info: `+result+`}
    - pcc.rewind.fleet_page: {dest: "`+in.dir+`", hosts: "{{ ansible_play_hosts_all }}", results: info}
      run_once: true
`)
		out, err := in.run(t, append(in.argv(t, "ansible-playbook"), "-i", "hosts.yml", "play.yml")...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		report, err := os.ReadFile(filepath.Join(in.dir, "fleet.json"))
		const counts = `"counts":{"bad":2,"unreachable":0,"warn":0,"ok":1}`
		if err != nil || !strings.Contains(string(report), counts) {
			t.Errorf("%s: %v, %s", ansible, err, report)
		}
	}
}

// TestPageOf5000ServersStaysSmall checks that what the page shows of 5,000 servers takes less than 2 MB.
func TestPageOf5000ServersStaysSmall(t *testing.T) {
	var results [][2]any
	for range 5000 {
		results = append(results, [2]any{"server-0000.example.org", healthy()})
	}
	if _, size := judge(t, results); size > 1_900_000 {
		t.Errorf("%d bytes", size)
	}
}
