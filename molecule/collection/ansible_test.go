//go:build playbooks

package collection

import (
	"encoding/json"
	"errors"
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
// and is lost at the call of the number LOSES, and slow with sudo at that of the number SLOW, as before ansible-core
// 2.19. LOGIN is the login shell, which gets each command as sshd hands it over.
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
import shlex
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
        if "LOGIN" in os.environ:
            cmd = "exec %s -c %s" % (os.environ["LOGIN"], shlex.quote(cmd))
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

// installed is an empty directory with the collection in it.
type installed struct{ dir, ansible string }

// played is what came of a playbook.
type played struct {
	results []map[string]any // of each task
	sent    []int            // bytes, in each call
	shown   string
}

// unsupported says whether a task found that this host is no server with LVM. If it is a container, the playbook goes on.
func (p played) unsupported() bool {
	return slices.ContainsFunc(p.results, func(r map[string]any) bool { return r["code"] == "unsupported" })
}

// last is the result of the last task.
func (p played) last() map[string]any {
	if len(p.results) == 0 {
		return nil
	}
	return p.results[len(p.results)-1]
}

// play runs tasks where nothing is kept yet.
func (in installed) play(t *testing.T, environment []string, tasks string) played {
	t.Helper()
	const head = "- hosts: server\n  gather_facts: false\n  ignore_errors: true\n  tasks:"
	play := head + strings.ReplaceAll(tasks, "\n", "\n  ")
	path := filepath.Join(t.TempDir(), "play.yml")
	write(t, path, play)
	write(t, filepath.Join(filepath.Dir(path), "riscv/uname"), "#!/bin/sh\necho riscv64\n")
	p := in.playbook(t, environment, path)
	if want := strings.Count(tasks, "\n- "); len(p.results) != want {
		t.Fatalf("%d results of %d tasks", len(p.results), want)
	}
	return p
}

// ownPlaces has what is kept, and what a run of a program leaves, be a test's own.
const ownPlaces = "mount -t tmpfs -o mode=755 tmpfs /var/lib && mount -t tmpfs -o mode=755 tmpfs /run"

// playbook plays one where nothing is kept yet.
func (in installed) playbook(t *testing.T, environment []string, words ...string) (p played) {
	t.Helper()
	dir := t.TempDir()
	calls, noted := filepath.Join(dir, "calls"), filepath.Join(dir, "results")
	inventory := "[all]\nserver\nother\n[all:vars]\nansible_connection=counting\n"
	write(t, filepath.Join(dir, "inventory"), inventory)
	const script = ownPlaces + ` && exec "$@"`
	all := slices.Concat([]string{"unshare", "--mount", "sh", "-c", script, "sh", "env", "CALLS=" + calls, "RESULTS=" + noted},
		environment, in.program(t, "ansible-playbook"), []string{"-i", filepath.Join(dir, "inventory")}, words)
	out, _ := in.run(t, all...)
	lines, err := os.ReadFile(calls)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // none was made
		t.Fatal(err)
	}
	p.results = results(t, noted)
	for line := range strings.Lines(string(lines)) {
		command, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		a, err1 := strconv.Atoi(command)
		b, err2 := strconv.Atoi(data)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		p.sent = append(p.sent, a+b)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out)
		}
	})
	p.shown = out
	return p
}

// results are those that the callback noted; none if it noted nothing.
func results(t *testing.T, noted string) (all []map[string]any) {
	t.Helper()
	lines, err := os.ReadFile(noted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		var result map[string]any
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		all = append(all, result)
	}
	return all
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
