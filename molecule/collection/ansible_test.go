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

// countingConnection is a connection plugin that runs commands on this host and appends to the file CALLS how many
// bytes each call sends: in the command and on stdin. Environment variables change what it does. With SENDS_NOTHING it
// hands no stdin to the command, with TERMINAL a terminal. The connection is lost at the call with the number LOSES,
// and sudo times out at that with the number SLOW, with the error that Ansible has for it before ansible-core 2.19.
// LOGIN is the login shell, which gets each command as sshd would hand it over.
const countingConnection = `
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
        if "TERMINAL" in os.environ and in_data: # as when sudo asks for a password
            self.terminals = os.openpty()
            cmd, in_data = "exec 0<%s; %s" % (os.ttyname(self.terminals[1]), cmd), None
        if "LOGIN" in os.environ:
            cmd = "exec %s -c %s" % (os.environ["LOGIN"], shlex.quote(cmd))
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
`

// notingCallback is a callback plugin that appends the result of each task to the file RESULTS, as one line of JSON.
const notingCallback = `
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

// ansibleConfig is the ansible.cfg of the tests.
const ansibleConfig = "[defaults]\nnocolor=1\ncallbacks_enabled=noting\n"

// installation is a directory with nothing in it but the installed collection and the tests' plugins, and the directory
// of the version of Ansible that is tested with it.
type installation struct{ dir, ansible string }

// outcome is what a playbook has done.
type outcome struct {
	results []map[string]any // of each task
	sent    []int            // bytes, in each call of the connection
	shown   string           // what ansible-playbook printed
}

// unsupported reports whether a task has failed because this host is not a server with LVM. If this host is a
// container, the playbook goes on after that.
func (p outcome) unsupported() bool {
	return slices.ContainsFunc(p.results, func(r map[string]any) bool { return r["code"] == "unsupported" })
}

// last returns the result of the last task, nil if there was none.
func (p outcome) last() map[string]any {
	if len(p.results) == 0 {
		return nil
	}
	return p.results[len(p.results)-1]
}

// playTasks runs tasks on a server that does not have the programs yet, and returns a result for each.
func (in installation) playTasks(t *testing.T, environment []string, tasks string) outcome {
	t.Helper()
	const head = "- hosts: server\n  gather_facts: false\n  ignore_errors: true\n  tasks:"
	play := head + strings.ReplaceAll(tasks, "\n", "\n  ")
	path := filepath.Join(t.TempDir(), "play.yml")
	writeFile(t, path, play)
	writeFile(t, filepath.Join(filepath.Dir(path), "riscv/uname"), "#!/bin/sh\necho riscv64\n")
	p := in.playPlaybook(t, environment, path)
	if want := strings.Count(tasks, "\n- "); len(p.results) != want {
		t.Fatalf("%d results of %d tasks", len(p.results), want)
	}
	return p
}

// mountOwnDirectories mounts an empty file system over /var/lib, where the programs are kept, and over /run. It is used
// in a mount namespace of its own, so that a test does not change this host.
const mountOwnDirectories = "mount -t tmpfs -o mode=755 tmpfs /var/lib && mount -t tmpfs -o mode=755 tmpfs /run"

// playPlaybook runs ansible-playbook with more arguments on a server that does not have the programs yet.
func (in installation) playPlaybook(t *testing.T, environment []string, words ...string) (p outcome) {
	t.Helper()
	dir := t.TempDir()
	calls, noted := filepath.Join(dir, "calls"), filepath.Join(dir, "results")
	inventory := "[all]\nserver\nother\n[all:vars]\nansible_connection=counting\n"
	writeFile(t, filepath.Join(dir, "inventory"), inventory)
	const script = mountOwnDirectories + ` && exec "$@"`
	all := slices.Concat(
		[]string{"unshare", "--mount", "sh", "-c", script, "sh"},
		[]string{"env", "CALLS=" + calls, "RESULTS=" + noted}, environment,
		in.argv(t, "ansible-playbook"), []string{"-i", filepath.Join(dir, "inventory")}, words)
	out, _ := in.run(t, all...)
	lines, err := os.ReadFile(calls)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it does not exist if there was no call
		t.Fatal(err)
	}
	p.results = readResults(t, noted)
	for line := range strings.Lines(string(lines)) {
		command, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		commandBytes, err1 := strconv.Atoi(command)
		dataBytes, err2 := strconv.Atoi(data)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		p.sent = append(p.sent, commandBytes+dataBytes)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out)
		}
	})
	p.shown = out
	return p
}

// readResults returns the results that notingCallback has written, none if there is no file.
func readResults(t *testing.T, noted string) (all []map[string]any) {
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

// argv is the command line of a program of this version of Ansible, without arguments.
func (in installation) argv(t *testing.T, name string) []string {
	t.Helper()
	return []string{absolute(t, "../../build/venv/bin/python"), filepath.Join(absolute(t, in.ansible), "bin", name)}
}

// run runs a command with the environment that this version of Ansible needs. Its home and its working directory are
// the directory with the collection. It returns stdout and stderr.
func (in installation) run(t *testing.T, words ...string) (string, error) {
	t.Helper()
	c := exec.Command(words[0], words[1:]...)
	c.Dir = in.dir
	c.Env = []string{
		"HOME=" + in.dir, "LANG=C.UTF-8", "PATH=" + os.Getenv("PATH"), "PYTHONPATH=" + absolute(t, in.ansible),
		"PYTHONDONTWRITEBYTECODE=1", // the collection may be this repository itself
		"ANSIBLE_CONFIG=" + filepath.Join(in.dir, "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH=" + in.dir,
		"ANSIBLE_CONNECTION_PLUGINS=" + filepath.Join(in.dir, "connections"),
		"ANSIBLE_CALLBACK_PLUGINS=" + filepath.Join(in.dir, "callbacks"),
	}
	out, err := c.CombinedOutput()
	return string(out), err
}

func toJSON(v any) string {
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

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
