//go:build playbooks

package collection

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/service"
)

// judge has the collection's own code judge servers by their results, which are JSON by host.
const judge = `
import json, sys
sys.path.insert(0, "../../plugins/plugin_utils")
from fleet import Limits, fleet
hosts = [(host, result, Limits()) for host, result in json.load(sys.stdin)]
json.dump(fleet(hosts, len(hosts), "2026-03-04T05:00:00Z"), sys.stdout)
`

type server struct {
	Host, Verdict string
	Why           []string
	Backups       [][]any
}

type fleet struct {
	Counts map[string]int
	Hosts  []server
}

func judged(t *testing.T, results [][2]any) (f fleet, size int) {
	t.Helper()
	data, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	python := exec.Command("../../build/venv/bin/python", "-c", judge)
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

// well is what lvm_snapshot_info says of a server on which nothing is wrong.
func well() map[string]any {
	return map[string]any{
		"host": map[string]any{"usable": true, "problems": []string{}}, "groups": []any{map[string]any{"vg": "vg00", "size_bytes": 1 << 40}},
		"sets": []any{map[string]any{"name": "snap", "state": "ok", "age_seconds": 7200, "snapshots": []any{
			map[string]any{"snapshot": "vg00/dat_snap", "state": "active", "cow_used_percent": 12.5, "seconds_to_full": 360000},
		}}},
		"unmanaged": []any{}, "under_way": []any{}, "last_rollback": nil,
		"backups": []any{map[string]any{"name": "nightly", "backend": "restic", "state": "ok", "volumes": []string{"/dat"}, "age_seconds": 10000,
			"good": map[string]any{"volumes": []string{"/dat", "/boot"}}}},
	}
}

// known is what a part of the result that a program makes becomes.
func known(part any) (m map[string]any) {
	data, err := json.Marshal(part)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		panic(err)
	}
	return m
}

// at returns the part of a result that a path of keys leads to, by the first of each list.
func at(v any, keys ...string) map[string]any {
	for _, key := range keys {
		v = v.(map[string]any)[key]
		if list, ok := v.([]any); ok {
			v = list[0]
		}
	}
	return v.(map[string]any)
}

func TestFleet(t *testing.T) {
	for _, c := range []struct {
		name, verdict, why string
		change             func(map[string]any)
	}{
		{"all is well", "ok", "", func(map[string]any) {}},
		{"lost", "unreachable", "no route to host", func(r map[string]any) { clear(r); r["unreachable"], r["msg"] = true, "no\nroute to host" }},
		{"failed", "bad", "not root", func(r map[string]any) { clear(r); r["failed"], r["msg"] = true, "not root" }},
		{"another module's", "bad", "no result", func(r map[string]any) { clear(r); r["ping"] = "pong" }},
		{"a container", "warn", "a container", func(r map[string]any) {
			r["host"] = map[string]any{"usable": false, "problems": []string{"this is a container"}}
		}},
		{"a lost disk", "bad", "vg00 lacks a disk", func(r map[string]any) { at(r, "groups")["partial"] = true }},
		{"a sick pool", "bad", "vg00/pool: no data space", func(r map[string]any) {
			at(r, "groups")["pools"] = []any{map[string]any{"pool": "vg00/pool", "problem": "no data space is left"}}
		}},
		{"a pool that fills", "warn", "81 % of its metadata", func(r map[string]any) {
			at(r, "groups")["pools"] = []any{map[string]any{"pool": "vg00/pool", "data_percent": 3, "metadata_percent": 81.2}}
		}},
		{"a set that is bad", "bad", "set snap is incomplete", func(r map[string]any) { at(r, "sets")["state"] = "incomplete" }},
		{"nearly full", "warn", "80 % full", func(r map[string]any) { at(r, "sets", "snapshots")["cow_used_percent"] = 80.0 }},
		{"soon full", "warn", "full in 2.0 h", func(r map[string]any) { at(r, "sets", "snapshots")["seconds_to_full"] = 7200 }},
		{"nearly full while another set is backed up", "warn", "95 % full", func(r map[string]any) {
			at(r, "sets", "snapshots")["cow_used_percent"] = 95.0
			r["under_way"] = []any{known(journey.Status{Kind: "backup", Title: "back up with mirror", Set: "backup"})}
		}},
		{"overflowed", "bad", "vg00/dat_snap: its COW", func(r map[string]any) {
			at(r, "sets", "snapshots")["problem"] = "its COW space overflowed"
		}},
		{"a failed merge", "bad", "merge of vg00/dat_snap failed", func(r map[string]any) {
			at(r, "sets", "snapshots")["merge"] = map[string]any{"state": "failed"}
		}},
		{"a merge at the next boot", "warn", "waits for", func(r map[string]any) {
			at(r, "sets", "snapshots")["merge"] = map[string]any{"state": "deferred", "percent": nil}
		}},
		{"a merge", "ok", "", func(r map[string]any) {
			at(r, "sets", "snapshots")["merge"] = map[string]any{"state": "running", "percent": 3.5}
		}},
		{"no backup", "warn", "no backup is known", func(r map[string]any) { r["backups"] = []any{} }},
		{"a backup that does not begin", "bad", "scheduled backup nightly did not begin: journalctl -u x", func(r map[string]any) {
			r["backups_not_begun"] = []any{map[string]any{"name": "nightly", "unit": "x"}}
		}},
		{"a failed backup", "bad", "backup nightly: the repository is full", func(r map[string]any) {
			at(r, "backups")["state"], at(r, "backups")["msg"] = "failed", "the repository is full"
		}},
		{"a killed backup", "bad", "it was interrupted", func(r map[string]any) { at(r, "backups")["state"] = "interrupted" }},
		{"an old backup", "bad", "no backup nightly of /boot with restic for 37 h", func(r map[string]any) { at(r, "backups")["age_seconds"] = 37 * 3600 }},
		{"never a good one", "bad", "no good backup nightly of /dat with restic", func(r map[string]any) {
			at(r, "backups")["good"], at(r, "backups")["age_seconds"], at(r, "backups")["state"] = nil, nil, "running"
		}},
		{"a second place that got none for long", "bad", "no backup nightly of /dat with mirror for 138 h", func(r map[string]any) {
			r["backups"] = append(r["backups"].([]any), map[string]any{"name": "nightly", "backend": "mirror", "state": "ok",
				"volumes": []string{"/dat"}, "age_seconds": 500000, "good": map[string]any{"volumes": []string{"/dat"}}})
		}},
		{"a rollback that was left", "bad", "snap was interrupted at step merging", func(r map[string]any) {
			r["last_rollback"] = known(rollback.Last{Set: "snap", Outcome: "unfinished", Step: "merging"})
			r["under_way"] = []any{known(journey.Status{Kind: "query", Title: "check the repository of mirror"})}
		}},
		{"a rollback under way", "ok", "", func(r map[string]any) {
			r["last_rollback"] = known(rollback.Last{Set: "snap", Outcome: "unfinished", Step: "merging"})
			r["under_way"] = []any{known(journey.Status{Kind: "rollback", Title: "roll back to set snap"})}
		}},
		{"a rollback that goes on by itself", "ok", "", func(r map[string]any) {
			r["last_rollback"] = known(rollback.Last{Set: "snap", Outcome: "unfinished", Step: rollback.StepStarted})
		}},
		{"a service that did not start", "warn", "set snap these did not start, see whether they run: x.service", func(r map[string]any) {
			r["last_rollback"] = known(rollback.Last{Set: "snap", Outcome: "done", Failures: []service.Failure{{Unit: "x.service"}}})
		}},
		{"a set that is being made", "ok", "", func(r map[string]any) {
			at(r, "sets")["state"] = "incomplete"
			at(r, "sets", "snapshots")["cow_used_percent"] = 95.0
			r["under_way"] = []any{known(journey.Status{Kind: "snapshot", Title: "set snap: present", Set: "snap"})}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			result := well()
			c.change(result)
			f, _ := judged(t, [][2]any{{"db1", result}})
			if h := f.Hosts[0]; h.Verdict != c.verdict || !strings.Contains(strings.Join(h.Why, "; "), c.why) || (c.why == "") != (len(h.Why) == 0) {
				t.Errorf("%s, want %s because of %q: %q", h.Verdict, c.verdict, c.why, h.Why)
			}
		})
	}
}

// The worst come first; of a volume the youngest good backup is shown, whichever job made it.
func TestFleetInOrder(t *testing.T) {
	two := well()
	two["backups"] = append(two["backups"].([]any), map[string]any{"name": "weekly", "backend": "restic", "state": "ok",
		"volumes": []string{"/dat"}, "age_seconds": 100000, "good": map[string]any{"volumes": []string{"/dat"}}})
	unreachable, bad, warn := map[string]any{"unreachable": true}, well(), well()
	at(bad, "sets")["state"], warn["backups"] = "bad", []any{}
	f, _ := judged(t, [][2]any{{"a", two}, {"b", warn}, {"c", unreachable}, {"d", nil}, {"e", bad}})
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

// The page of 5,000 servers stays below 2 MB: what it shows of each is short.
func TestAFleetOfThousands(t *testing.T) {
	var results [][2]any
	for range 5000 {
		results = append(results, [2]any{"server-0000.example.org", well()})
	}
	if _, size := judged(t, results); size > 1_900_000 {
		t.Errorf("%d bytes", size)
	}
}
