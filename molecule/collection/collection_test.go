//go:build playbooks

// Package collection installs the collection that `make collection` built into an empty directory, and runs its modules
// on this host, in a mount namespace in which nothing is kept yet, with each of several versions of Ansible.
package collection

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// counting is a way to this host that writes down how many bytes each call sends. It hands over none if it is told to,
// and is lost at the call of the number LOSES, and slow with sudo at that of the number SLOW, as before ansible-core 2.19.
const counting = `
DOCUMENTATION = """
name: counting
short_description: counts
description: counts
author: nobody
options:
  become_success_timeout: {description: as of local, type: int, default: 10}
  become_strip_preamble: {description: as of local, type: bool, default: true}
"""
import os
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection.local import Connection as Local

class Connection(Local):
    transport = "counting"
    has_pipelining = True
    def exec_command(self, cmd, in_data=None, sudoable=True):
        with open(os.environ["CALLS"], "a") as calls:
            calls.write("%d %d\n" % (len(cmd), len(in_data or b"")))
        with open(os.environ["CALLS"]) as calls:
            number = str(len(calls.readlines()))
        if number == os.environ.get("LOSES"):
            raise AnsibleConnectionFailure("lost")
        if number == os.environ.get("SLOW"):
            raise AnsibleError("Timeout (12s) waiting for privilege escalation prompt: ")
        if "SENDS_NOTHING" in os.environ:
            in_data = None
        if "TERMINAL" in os.environ and in_data: # as for a password of sudo's
            self.terminals = os.openpty()
            cmd, in_data = "exec 0<%s; %s" % (os.ttyname(self.terminals[1]), cmd), None
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
`

// noting writes each task's result down, as a callback is handed it, in one line.
const noting = `
DOCUMENTATION = """
name: noting
type: notification
short_description: notes results
description: notes results
author: nobody
"""
import json
import os
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "noting"
    def note(self, result, *args, **more):
        with open(os.environ["RESULTS"], "a") as results:
            results.write(json.dumps(result._result, default=str) + "\n")
    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = note
`

const config = "[defaults]\nnocolor=1\ncallbacks_enabled=noting\n"

// What is installed holds what ansible-lint asks of a collection.
func TestLint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ansible_collections/pcc/rewind")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xzf", tarball(t), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lint := exec.Command(absolute(t, "../../build/venv/bin/ansible-lint"),
		"--profile", "production", "--offline", "--nocolor")
	lint.Dir = dir
	lint.Env = append(os.Environ(), "ANSIBLE_COLLECTIONS_PATH="+filepath.Join(dir, "../../.."),
		"PATH="+absolute(t, "../../build/venv/bin")+":"+os.Getenv("PATH"))
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// tarball is what make collection built.
func tarball(t *testing.T) string {
	t.Helper()
	built, err := filepath.Glob("../../build/collection/*.tar.gz")
	if err != nil || len(built) != 1 {
		t.Fatalf("make collection builds one tarball: %q, %v", built, err)
	}
	return absolute(t, built[0])
}

// installed is an empty directory with the collection in it.
type installed struct{ dir, ansible string }

func TestCollection(t *testing.T) {
	built := tarball(t)
	others, err := filepath.Glob("../../build/ansible/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, ansible := range append(others, "../../build/venv") {
		t.Run(filepath.Base(ansible), func(t *testing.T) {
			t.Parallel()
			in := installed{dir: t.TempDir(), ansible: ansible}
			write(t, filepath.Join(in.dir, "ansible.cfg"), config)
			write(t, filepath.Join(in.dir, "connections/counting.py"), counting)
			write(t, filepath.Join(in.dir, "callbacks/noting.py"), noting)
			// The other versions share packages with this one, among which those of their ansible-galaxy are not.
			galaxy := installed{in.dir, "../../build/venv"}
			install := append(galaxy.program(t, "ansible-galaxy"), "collection", "install", "--offline", "-p", in.dir)
			if out, err := galaxy.run(t, append(install, built)...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Run("documentation", in.documentation)
			t.Run("one call", in.oneCall)
			t.Run("as tasks are written", in.tasks)
			t.Run("a connection that sends nothing", in.sendsNothing)
			t.Run("refused", in.refused)
			t.Run("without it", in.without)
			t.Run("kept by others", in.keptByOthers)
			t.Run("playbooks", in.playbooks)
			t.Run("long runs", in.longRuns)
		})
	}
}

func (in installed) documentation(t *testing.T) {
	for _, module := range []string{"lvm_snapshot", "lvm_merge", "lvm_snapshot_info", "snap_backup", "snap_backup_info"} {
		out, err := in.run(t, append(in.program(t, "ansible-doc"), "-t", "module", "pcc.rewind."+module)...)
		if err != nil || !strings.Contains(out, "EXAMPLES") || !strings.Contains(out, "RETURN VALUES") {
			t.Errorf("%s: %v\n%s", module, err, out)
		}
	}
}

// What is kept is not sent again: the first task brings the program, the next ones are one small call each.
func (in installed) oneCall(t *testing.T) {
	results, sent := in.play(t, nil, `
- pcc.rewind.lvm_snapshot_info:
- pcc.rewind.lvm_snapshot: {name: absent, state: absent}
- pcc.rewind.lvm_merge: {name: absent}
  check_mode: true
- pcc.rewind.snap_backup_info: {backend: mirror, backend_options: {path: /nowhere}}
`)
	if len(sent) != 8 || sent[1] < 1<<20 || sent[1] > 2<<20 || sent[6] < 4<<20 || sent[6] > 6500<<10 {
		t.Errorf("sent in each call: %v", sent)
	}
	for i, n := range sent {
		if i != 1 && i != 6 && n > 1024 {
			t.Errorf("call %d sent %d bytes", i, n)
		}
	}
	for i, module := range []string{"lvm_snapshot_info", "lvm_snapshot", "lvm_merge", "snap_backup_info"} {
		if r := results[i]; r["msg"] == nil || r["invocation"] == nil || r["module_stdout"] != nil {
			t.Errorf("%s: %v", module, r)
		}
	}
}

func (in installed) tasks(t *testing.T) {
	results, _ := in.play(t, nil, `
- pcc.rewind.lvm_snapshot:
    name: "{{ item }}"
    bogus: true
  loop: [one, two]
- pcc.rewind.lvm_snapshot:
    volumes: ["{{ empty | default('/nowhere') }}"]
    freeze_timeout: "{{ 5 * 2 }}"
  check_mode: true
  diff: true
- pcc.rewind.snap_backup_info:
    backend_options: {path: /nowhere}
    environment: {RESTIC_PASSWORD: canary}
- pcc.rewind.lvm_snapshot_info: {name: snap}
  no_log: true
- pcc.rewind.lvm_snapshot_info:
  environment: {REWIND_TEST: "it's set"}
- pcc.rewind.lvm_snapshot_info:
  delegate_to: other
`)
	if items, _ := results[0]["results"].([]any); len(items) != 2 || !strings.Contains(text(items[1]), "bogus") {
		t.Errorf("a loop: %v", results[0])
	}
	called := fmt.Sprint(results[1]["invocation"])
	if !strings.Contains(called, "freeze_timeout:10") || results[1]["changed"] != false {
		t.Errorf("a templated number, in check mode: %v", results[1])
	}
	if strings.Contains(text(results), "canary") {
		t.Error("a secret is shown")
	}
	if strings.Contains(text(results[3]), "snap") {
		t.Errorf("no_log: %v", results[3])
	}
	for _, i := range []int{4, 5} {
		if results[i]["host"] == nil {
			t.Errorf("task %d: %v", i, results[i])
		}
	}
}

// Files are sent where a connection hands nothing to a program.
func (in installed) sendsNothing(t *testing.T) {
	for _, how := range []string{"SENDS_NOTHING=1", "TERMINAL=1"} {
		results, _ := in.play(t, []string{how}, "\n- pcc.rewind.lvm_snapshot_info:\n- pcc.rewind.lvm_snapshot_info:\n")
		for _, r := range results {
			if r["host"] == nil {
				t.Errorf("%s: %v", how, r)
			}
		}
	}
}

func (in installed) refused(t *testing.T) {
	results, _ := in.play(t, nil, `
- pcc.rewind.lvm_snapshot_info:
  async: 60
  poll: 0
- pcc.rewind.lvm_snapshot_info:
  environment: {PATH: "{{ playbook_dir }}/riscv:/usr/sbin:/usr/bin:/sbin:/bin"}
- pcc.rewind.lvm_snapshot_info:
  become: true
  become_method: su
  become_user: nobody
  vars: {ansible_become_flags: -s /bin/sh}
`)
	for i, why := range []string{"Leave async out", "no program for this server's processor (riscv64)", "become: true"} {
		if !strings.Contains(text(results[i]["msg"]), why) {
			t.Errorf("it does not say %q: %v", why, results[i])
		}
	}
}

// A program is run only where nobody but root can have put it, or anything above it.
func (in installed) keptByOthers(t *testing.T) {
	top, err := os.MkdirTemp("/root", "rewind-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	above, kept := filepath.Join(top, "lib"), filepath.Join(top, "lib/rewind/bin")
	program := filepath.Join(kept, "rewind-12ab")
	write(t, program, "#!/bin/sh\necho ran $1 $2; cat\n")
	script, err := in.run(t, absolute(t, "../../build/venv/bin/python"), "-c", `import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.pcc.rewind.plugins.plugin_utils import program as p
words = dict(answer=p.ANSWER, greeting=p.GREETING, directories=sys.argv[2], hashes="34cd 12ab", name="lvm_merge")
print(p.RUN % words, end="")`, in.dir, kept)
	if err != nil || strings.Contains(script, "\n") {
		t.Fatalf("%v: not one line: %s", err, script)
	}
	for _, c := range []struct{ path, mode, want string }{
		{above, "755", "ran lvm_merge -\nthe arguments"}, {above, "757", "rewind-answer: missing"},
		{kept, "775", "rewind-answer: missing"}, {program, "722", "rewind-answer: missing"}, {program, "700", "ran lvm_merge -\nthe arguments"},
	} {
		const play = `chmod "$1" "$2" && printf 'rewind\nthe arguments' | sh -c "$3"; chmod 755 "$2"`
		out, err := in.run(t, "sh", "-c", play, "sh", c.mode, c.path, script)
		if err != nil || !strings.HasPrefix(out, c.want) {
			t.Errorf("%s of mode %s: %q, %v; want %q", c.path, c.mode, out, err, c.want)
		}
	}
}

// Without the collection Ansible sends the programs themselves, under names of its own.
func (in installed) without(t *testing.T) {
	for _, module := range []string{"lvm_snapshot_info", "lvm_merge", "snap_backup_info"} {
		out, _ := in.run(t, append(in.program(t, "ansible"), "localhost", "-c", "local", "-M",
			absolute(t, "../../build/bin/linux_amd64"), "-m", module, "-a", "bogus=1")...)
		if !strings.Contains(out, `"bogus: there is no such argument`) {
			t.Errorf("%s: %s", module, out)
		}
	}
}

// The playbooks are found by their names, and find the modules that came with them. This host is no server with LVM.
func (in installed) playbooks(t *testing.T) {
	for _, name := range []string{"snapshot", "rollback", "backup", "restore", "schedule", "remove"} {
		whole := name == "rollback" || name == "remove"
		if whole {
			results, _, _ := in.playbook(t, nil, "pcc.rewind."+name, "-e", "rewind_volumes=/dat", "--limit", "server")
			if last := results[len(results)-1]; !strings.Contains(text(last["msg"]), "rewind_volumes does not narrow a") {
				t.Errorf("%s of a part of a set: %v", name, results)
			}
		}
		volumes := map[bool]string{true: "rewind_wait=true", false: "rewind_volumes=/dat"}[whole]
		results, _, _ := in.playbook(t, nil, "pcc.rewind."+name, "-e", volumes, "-e", "ansible_become=false",
			"-e", `{"rewind_backend_options": {"path": "/nowhere"}}`, "--limit", "server")
		if len(results) == 0 || results[len(results)-1]["code"] != "unsupported" {
			t.Errorf("%s: %v", name, results)
		}
	}
	if results, _, _ := in.playbook(t, nil, "pcc.rewind.prepare", "-e", "ansible_become=false", "--limit", "server"); !strings.Contains(text(results[len(results)-1]["msg"]), "cannot be snapshotted") {
		t.Errorf("prepare: %v", results)
	}
	page := filepath.Join(t.TempDir(), "page")
	results, _, _ := in.playbook(t, nil, "pcc.rewind.status", "-e", "ansible_become=false", "-e", "rewind_page="+page, "--limit", "server")
	report, err := os.ReadFile(page + "/fleet.json")
	if err != nil || !strings.Contains(string(report), `"counts":{"bad":0,"unreachable":0,"warn":1,"ok":0}`) || !strings.Contains(string(report), `"known":2`) ||
		!strings.Contains(string(report), `"host":"server","verdict":"warn"`) {
		t.Errorf("status: %v, %s, %v", results, report, err)
	}
	results, _, _ = in.playbook(t, nil, "pcc.rewind.snapshot", "-e", "rewind_volums=/dat", "--limit", "server")
	if last := results[len(results)-1]; !strings.Contains(text(last["msg"]), "there is no rewind_volums") {
		t.Errorf("a variable that is misspelt: %v", results)
	}
}

// play runs tasks where nothing is kept yet, and returns each one's result and how many bytes each call sent.
func (in installed) play(t *testing.T, environment []string, tasks string) (results []map[string]any, sent []int) {
	t.Helper()
	results, sent, _ = in.played(t, environment, tasks)
	return results, sent
}

// played also returns what was shown.
func (in installed) played(t *testing.T, environment []string, tasks string) (results []map[string]any, sent []int, shown string) {
	t.Helper()
	const head = "- hosts: server\n  gather_facts: false\n  ignore_errors: true\n  tasks:"
	play := head + strings.ReplaceAll(tasks, "\n", "\n  ")
	path := filepath.Join(t.TempDir(), "play.yml")
	write(t, path, play)
	write(t, filepath.Join(filepath.Dir(path), "riscv/uname"), "#!/bin/sh\necho riscv64\n")
	results, sent, shown = in.playbook(t, environment, path)
	if want := strings.Count(tasks, "\n- "); len(results) != want {
		t.Fatalf("%d results of %d tasks", len(results), want)
	}
	return results, sent, shown
}

// playbook plays one where nothing is kept yet, and returns each task's result, how many bytes each call sent, and what was
// shown.
func (in installed) playbook(t *testing.T, environment []string, words ...string) (results []map[string]any, sent []int, shown string) {
	t.Helper()
	dir := t.TempDir()
	calls, noted := filepath.Join(dir, "calls"), filepath.Join(dir, "results")
	inventory := "[all]\nserver\nother\n[all:vars]\nansible_connection=counting\n"
	write(t, filepath.Join(dir, "inventory"), inventory)
	// What is kept, and what a run of a program leaves, is this test's own.
	script := `mount -t tmpfs -o mode=755 tmpfs /var/lib && mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"`
	all := slices.Concat([]string{"unshare", "--mount", "sh", "-c", script, "sh", "env", "CALLS=" + calls, "RESULTS=" + noted},
		environment, in.program(t, "ansible-playbook"), []string{"-i", filepath.Join(dir, "inventory")}, words)
	out, _ := in.run(t, all...)
	kept, err1 := os.ReadFile(noted)
	lines, err2 := os.ReadFile(calls)
	if errors.Is(err2, fs.ErrNotExist) { // none was made
		err2 = nil
	}
	if err1 != nil || err2 != nil {
		t.Fatalf("%v, %v\n%s", err1, err2, out)
	}
	for line := range strings.Lines(string(kept)) {
		var result map[string]any
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		results = append(results, result)
	}
	for line := range strings.Lines(string(lines)) {
		command, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		a, err1 := strconv.Atoi(command)
		b, err2 := strconv.Atoi(data)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		sent = append(sent, a+b)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out)
		}
	})
	return results, sent, out
}

// program is how a program of this version of Ansible is called.
func (in installed) program(t *testing.T, name string) []string {
	t.Helper()
	return []string{absolute(t, "../../build/venv/bin/python"), filepath.Join(absolute(t, in.ansible), "bin", name)}
}

// run runs a command, whose home is the directory that the collection is in.
func (in installed) run(t *testing.T, words ...string) (string, error) {
	t.Helper()
	c := exec.Command(words[0], words[1:]...)
	c.Dir = in.dir
	c.Env = []string{"HOME=" + in.dir, "LANG=C.UTF-8", "PATH=" + os.Getenv("PATH"), "PYTHONPATH=" + absolute(t, in.ansible),
		"ANSIBLE_CONFIG=" + filepath.Join(in.dir, "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH=" + in.dir,
		"ANSIBLE_CONNECTION_PLUGINS=" + filepath.Join(in.dir, "connections"),
		"ANSIBLE_CALLBACK_PLUGINS=" + filepath.Join(in.dir, "callbacks")}
	out, err := c.CombinedOutput()
	return string(out), err
}

func text(v any) string {
	out, _ := json.Marshal(v)
	return string(out)
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
