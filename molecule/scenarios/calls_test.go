//go:build lab

package scenarios

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// callAsAnsible is a script that runs a module as Ansible does: its only argument is the path of a file of arguments.
// The script prints the exit code, the number of bytes on stderr, and stdout, a line each.
func callAsAnsible(module, arguments string) string {
	return writeFile("/root/args", `
{"_ansible_verbosity": 0, "_ansible_no_log": false, "_ansible_tmpdir": null, "_ansible_debug": false,
 "_ansible_check_mode": true, "_ansible_diff": true, "_ansible_something_new": [1], `+arguments+"}") +
		module + " /root/args >/root/out 2>/root/err; echo $?; wc -c </root/err; cat /root/out\n" +
		"rm /root/args /root/out /root/err\n"
}

// TestAsAnsibleRunsIt gives the modules their arguments in a file, with types as loose as Ansible's, and calls --help.
func TestAsAnsibleRunsIt(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "lvm_snapshot volumes=/pccehr size=40m >/dev/null; echo new >/pccehr/rw-file; sync",
		"rm -f /pccehr/rw-file; lvm_snapshot state=absent")
	before := g.run(t, showState)
	calls := []struct{ module, arguments, exit, code string }{
		{"lvm_snapshot", `"volumes": ["/pccehr"], "name": "file", "size": null, "freeze_timeout": "30"`, "0", ""},
		{"lvm_snapshot", `"volumes": "/pccehr,/dat", "name": "file", "mountpoint_create": "yes"`, "0", ""},
		{
			"lvm_snapshot",
			`"volumes": [{"vg": "vg00", "lv": "pccehr", "size": 52428800}], "state": "mounted", "name": "file"`, "0", "",
		},
		{"lvm_merge", `"services": "pccehr", "wait": "true", "timeout": "600", "start_services": 1`, "0", ""},
		{"lvm_snapshot_info", `"name": "snap"`, "0", ""},
		{"lvm_snapshot", `"volumes": ["/pccehr"], "freeze_timeout": "{{"`, "1", "bad_arguments"},
		{"lvm_merge", `"services": ["pccehr"], "wait": "perhaps"`, "1", "bad_arguments"},
		{"lvm_snapshot_info", `"nmae": "snap"`, "1", "bad_arguments"},
	}
	var script string
	for _, c := range calls {
		script += callAsAnsible(c.module, c.arguments)
	}
	lines := strings.Split(g.run(t, script), "\n")
	if len(lines) != 3*len(calls) {
		t.Fatalf("%d lines of %d calls:\n%s", len(lines), len(calls), strings.Join(lines, "\n"))
	}
	for i, c := range calls {
		var r result
		if err := json.Unmarshal([]byte(lines[3*i+2]), &r); err != nil {
			t.Fatalf("%s: %v\n%s", c.arguments, err, lines[3*i+2])
		}
		if lines[3*i] != c.exit || lines[3*i+1] != "0" || r.code() != c.code {
			t.Errorf("%s %s: exit code %s, %s bytes on stderr, %s", c.module, c.arguments, lines[3*i], lines[3*i+1], r)
		}
		wantChange := c.code == "" && c.module != "lvm_snapshot_info"
		if (r["changed"] == true) != wantChange || (r["diff"] != nil) != wantChange {
			t.Errorf("%s %s: want a change and a diff: %v, got %s", c.module, c.arguments, wantChange, r)
		}
	}
	if diff := lines[3*3+2]; !strings.Contains(diff, "/pccehr/rw-file") {
		t.Errorf("lvm_merge's diff does not list the file that would be discarded: %s", diff)
	}
	if after := g.run(t, showState); after != before {
		t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
	}
	for module, arguments := range map[string]string{
		"lvm_snapshot": "volumes name state size consistency freeze_timeout on_invalid mountpoint mountpoint_create " +
			"options postgresql",
		"lvm_merge":         "name snapshots services holders when_busy wait timeout resnapshot start_services postgresql",
		"lvm_snapshot_info": "name vg textfile",
		"snap_backup": "action volumes calendar spread lock_timeout backend backend_options backend_sha256 " +
			"environment environment_file name size freeze_timeout stall_timeout keep host restore_id " +
			"merge services holders when_busy wait timeout resnapshot start_services postgresql",
		"snap_backup_info": "backend backend_options backend_sha256 environment environment_file host stall_timeout " +
			"all_hosts",
	} {
		help := g.run(t, module+" --help")
		for _, name := range strings.Fields(arguments) {
			if !strings.Contains(help, "\n  "+name+": ") {
				t.Errorf("%s --help does not have the argument %s:\n%s", module, name, help)
			}
		}
	}
	t.Logf("%d calls: one JSON object on stdout, nothing on stderr, exit code 0 or 1, Ansible's own keys ignored, check "+
		"mode and diff obeyed; --help has every argument", len(calls))
}

// TestSecondRunWaitsOrAttaches makes the same call again, and other calls, while the first one hangs at a failpoint.
func TestSecondRunWaitsOrAttaches(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	const one, two = "lvm_snapshot name=one volumes=/pccehr size=20m", "lvm_snapshot name=two volumes=/pccehr size=20m"
	g.prepare(t, "lvcreate -qqy -L 20M -s -n pccehr_hand vg00/pccehr 2>/dev/null", releaseFailpoint+`
lvm_snapshot name=one state=absent; lvm_snapshot name=two state=absent >/dev/null
lvremove -qqy vg00/pccehr_hand 2>/dev/null; true`)
	held := g.start(t, withFailpoint("snapshot.taking hang")+one)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	locked := g.fails(t, "lvm_merge snapshots=vg00/pccehr_hand services=pccehr timeout=2", "locked")
	if !strings.Contains(locked.msg(), "in use by lvm_snapshot present one (pid ") ||
		!strings.Contains(locked.msg(), "waited 2s") {
		t.Errorf("the message does not name the holder of the lock: %s", locked)
	}
	same, other := g.startBeside(t, one), g.startBeside(t, two)
	g.eventually(t, "both other calls", `test $(pgrep -xc lvm_snapshot) = 3 && lvm_snapshot_info >/run/seen &&
grep 'under way since .*: set two: present: waiting for lvm_snapshot present one (rewind-2' /run/seen`, time.Minute)
	g.run(t, "grep 'under way since .*: set one: present.*(rewind-2' /run/seen && rm /run/seen")
	g.run(t, "! ls /dev/mapper | grep -E 'pccehr_(one|two)'; "+
		"test $(systemctl list-units --plain --no-legend 'rewind-2*' | wc -l) = 2; "+releaseFailpoint)
	first, second, third := held.result(t), same.result(t), other.result(t)
	if first.failed() || first["id"] != second["id"] || second["changed"] != true {
		t.Errorf("the second call did not attach to the first:\n%s\n%s", first, second)
	}
	if third.failed() || third["changed"] != true || third["name"] != "two" {
		t.Errorf("the other call did not take its set afterwards: %s", third)
	}
	t.Logf("the same call attached to the run and gave its result; another call waited and took its set afterwards; one "+
		"with a short timeout gave up: %s", locked.msg())
}

// TestARunIsLookedAtByItsID begins a backup with detach=true, so that no call waits for it, and asks for its run by the
// ID in the middle and after its end.
func TestARunIsLookedAtByItsID(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, "mkdir -m 700 /srv/runs", releaseFailpoint+"; "+forgetBackups+"rm -rf /srv/runs")
	const repository = " backend_options=path=/srv/runs"
	const backup = "snap_backup volumes=/pccehr detach=true" + repository
	// idOf returns the ID of the run that a result is about. The run must not have ended.
	idOf := func(r result) string {
		run, _ := r["run"].(map[string]any)
		id, _ := run["id"].(string)
		if r["finished"] != false || id == "" {
			t.Fatalf("a run that goes on: %s", r)
		}
		return id
	}
	first := g.ok(t, withFailpoint("backup.stored hang")+backup)
	look := "snap_backup run=" + idOf(first)
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	second, going := g.ok(t, backup), g.ok(t, look)
	if first["changed"] != true || second["changed"] != false ||
		idOf(second) != idOf(first) || idOf(going) != idOf(first) {
		t.Errorf("the same call again, and a call with the ID in the middle:\n%s\n%s", second, going)
	}
	// The run ends while nobody asks for it.
	g.run(t, releaseFailpoint)
	g.eventually(t, "the end of the run", "! systemctl is-active -q rewind-"+idOf(first), settleLimit)
	done, again := g.ok(t, look), g.ok(t, look)
	if done["finished"] != true || done["changed"] != true || done["id"] == nil || done["id"] != again["id"] {
		t.Errorf("after its end: %s\n%s", done, again)
	}
	if made := g.ok(t, "snap_backup_info"+repository).rows("backups"); len(made) != 1 || made[0]["id"] != done["id"] {
		t.Errorf("backups: %v, want %v alone", made, done["id"])
	}
	g.fails(t, "lvm_merge run=20260131t235959-123456-0a1b2c", "not_found")
	lost := "snap_backup run=" + idOf(g.ok(t, strings.Replace(backup, "/srv/runs", "/srv/missing", 1)))
	g.eventually(t, "the failure of the run", lost+" --json | grep -q '\"finished\":true'", settleLimit)
	if r := g.fails(t, lost, "repository_missing"); r.hint() == "" {
		t.Errorf("a run that failed: %s", r)
	}
	t.Logf("one backup for two calls, and four calls with its ID: %s; in the middle: %s", done.msg(), going.msg())
}

// TestWhatCannotBeStartedAgainIsNotStopped rolls back while a unit that systemd-run has made works in /dat, and from a
// shell whose working directory is /dat. Both are named, and not stopped.
func TestWhatCannotBeStartedAgainIsNotStopped(t *testing.T) {
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, `lvcreate -qqy -L 300M -s -n dat_hand vg00/dat 2>/dev/null
systemd-run -q --unit=rw-passing --working-directory=/dat sleep infinity`,
		`systemctl stop rw-passing 2>/dev/null; lvremove -qqy vg00/dat_hand 2>/dev/null
systemctl is-active 'postgresql@*-main.service'`)
	const merge = "lvm_merge snapshots=vg00/dat_hand services="
	before := g.run(t, serviceStarts+"; systemctl show -p InvocationID rw-passing")
	r := g.callEach(t, merge+"auto", merge+"auto --check", merge+"postgresql,rw-passing")
	for i, refused := range r[:2] {
		holder := map[string]any{"unit": "rw-passing.service", "path": "/dat"}
		if refused.code() != "busy" || !hasRow(refused.rows("holders"), holder) ||
			!strings.Contains(refused.hint(), "stop rw-passing.service yourself") {
			t.Errorf("call %d: %s", i, refused)
		}
	}
	if r[2].code() != "bad_arguments" || !strings.Contains(r[2].msg(), "rw-passing.service could not be started again") {
		t.Errorf("a transient unit by its name: %s", r[2])
	}
	if after := g.run(t, serviceStarts+"; systemctl show -p InvocationID rw-passing"); after != before {
		t.Errorf("services were touched:\n%s\nbefore:\n%s", after, before)
	}
	g.run(t, "systemctl stop rw-passing")

	out := g.run(t, "cd /dat; "+merge+"postgresql 2>&1; echo $?; "+
		merge+"postgresql --check --json; cd /; "+merge+"postgresql --check")
	refusal, others, _ := strings.Cut(out, "\n1\n")
	object, fromRoot, _ := strings.Cut(others, "\n")
	var checked result
	if err := json.Unmarshal([]byte(object), &checked); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(refusal, "have bash (pid ") || !strings.Contains(refusal, "leave /dat (cd /)") ||
		strings.Contains(refusal, "lvm_merge  ") {
		t.Errorf("what somebody reads whose shell is in /dat:\n%s", refusal)
	}
	holders := checked.rows("holders")
	if slices.ContainsFunc(holders, func(h map[string]any) bool { return h["command"] != "bash" }) || len(holders) != 1 {
		t.Errorf("the shell alone holds /dat, but these are named: %s", fmt.Sprint(holders))
	}
	if !strings.Contains(fromRoot, "would roll back vg00/dat") {
		t.Errorf("after cd /: %s", out)
	}
	t.Logf("a unit made by systemd-run is named and left running: %s; so is a shell: %s",
		r[0].msg(), strings.ReplaceAll(refusal, "\n", " | "))
}
