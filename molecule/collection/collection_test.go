//go:build playbooks

// Package collection tests the collection that `make collection` has built. It installs it into an empty directory and
// runs its modules on this host, in a mount namespace in which the programs are not there yet, with each of several
// versions of Ansible.
package collection

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLint runs ansible-lint on the collection as it is installed.
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

// tarball returns the path of the collection that make collection has built.
func tarball(t *testing.T) string {
	t.Helper()
	built, err := filepath.Glob("../../build/collection/*.tar.gz")
	if err != nil || len(built) != 1 {
		t.Fatalf("make collection builds one tarball: %q, %v", built, err)
	}
	return absolute(t, built[0])
}

// newest is the directory of the newest version of Ansible. The other versions are in ../../build/ansible.
const newest = "../../build/venv"

// TestCollection installs the collection for each version of Ansible and runs all subtests with it.
func TestCollection(t *testing.T) {
	built := tarball(t)
	others, err := filepath.Glob("../../build/ansible/*")
	if err != nil {
		t.Fatal(err)
	}
	for i, ansible := range append(others, newest) {
		t.Run(filepath.Base(ansible), func(t *testing.T) {
			t.Parallel()
			in := installation{dir: t.TempDir(), ansible: ansible}
			writeFile(t, filepath.Join(in.dir, "ansible.cfg"), ansibleConfig)
			writeFile(t, filepath.Join(in.dir, "connections/counting.py"), countingConnection)
			writeFile(t, filepath.Join(in.dir, "callbacks/noting.py"), notingCallback)
			// The newest version installs, because the others use its Python packages, and their ansible-galaxy needs others.
			galaxy := installation{in.dir, newest}
			install := append(galaxy.argv(t, "ansible-galaxy"), "collection", "install", "--offline", "-p", in.dir)
			if out, err := galaxy.run(t, append(install, built)...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Run("documentation", in.testDocumentation)
			t.Run("one call", in.testOneCall)
			t.Run("as tasks are written", in.testTasks)
			t.Run("a connection that sends nothing", in.testNoStdin)
			if i == 0 || ansible == newest { // the oldest, and the newest
				t.Run("logins", in.testLogins)
			}
			if ansible == newest { // our own code writes the script for the shells, whatever the version
				t.Run("login shells", in.testLoginShells)
			}
			t.Run("refused", in.testRefused)
			t.Run("without it", in.testWithoutCollection)
			t.Run("kept by others", in.testKeptByOthers)
			t.Run("playbooks", in.testPlaybooks)
			t.Run("long runs", in.testLongRuns)
		})
	}
}

// testDocumentation runs ansible-doc on each module.
func (in installation) testDocumentation(t *testing.T) {
	for _, module := range []string{"lvm_snapshot", "lvm_merge", "lvm_snapshot_info", "snap_backup", "snap_backup_info"} {
		out, err := in.run(t, append(in.argv(t, "ansible-doc"), "-t", "module", "pcc.rewind."+module)...)
		if err != nil || !strings.Contains(out, "EXAMPLES") || !strings.Contains(out, "RETURN VALUES") {
			t.Errorf("%s: %v\n%s", module, err, out)
		}
	}
}

// testOneCall checks that a program is sent once: the first task that needs it sends it in a second call, and each
// later task is one small call.
func (in installation) testOneCall(t *testing.T) {
	p := in.playTasks(t, nil, `
- pcc.rewind.lvm_snapshot_info:
- pcc.rewind.lvm_snapshot: {name: absent, state: absent}
- pcc.rewind.lvm_merge: {name: absent}
  check_mode: true
- pcc.rewind.snap_backup_info: {backend: mirror, backend_options: {path: /nowhere}}
`)
	if len(p.sent) != 8 || p.sent[1] < 1<<20 || p.sent[1] > 2<<20 || p.sent[6] < 4<<20 || p.sent[6] > 6500<<10 {
		t.Errorf("sent in each call: %v", p.sent)
	}
	for i, n := range p.sent {
		if i != 1 && i != 6 && n > 1024 {
			t.Errorf("call %d sent %d bytes", i, n)
		}
	}
	for i, module := range []string{"lvm_snapshot_info", "lvm_snapshot", "lvm_merge", "snap_backup_info"} {
		if r := p.results[i]; r["msg"] == nil || r["invocation"] == nil || r["module_stdout"] != nil {
			t.Errorf("%s: %v", module, r)
		}
	}
}

// testTasks uses what tasks in playbooks may have: a loop, templates, check mode, diff, secrets, no_log, an
// environment, and delegation.
func (in installation) testTasks(t *testing.T) {
	results := in.playTasks(t, nil, `
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
`).results
	if items, _ := results[0]["results"].([]any); len(items) != 2 || !strings.Contains(toJSON(items[1]), "bogus") {
		t.Errorf("a loop: %v", results[0])
	}
	called := fmt.Sprint(results[1]["invocation"])
	if !strings.Contains(called, "freeze_timeout:10") || results[1]["changed"] != false {
		t.Errorf("a templated number, in check mode: %v", results[1])
	}
	if strings.Contains(toJSON(results), "canary") {
		t.Error("a secret is shown")
	}
	if strings.Contains(toJSON(results[3]), "snap") {
		t.Errorf("no_log: %v", results[3])
	}
	for _, i := range []int{4, 5} {
		if results[i]["host"] == nil {
			t.Errorf("task %d: %v", i, results[i])
		}
	}
}

// testNoStdin checks that the program and the arguments are sent as files where a connection hands no stdin to a
// command.
func (in installation) testNoStdin(t *testing.T) {
	const tasks = "\n- pcc.rewind.lvm_snapshot_info:\n- pcc.rewind.lvm_snapshot_info:\n"
	for _, how := range []string{"SENDS_NOTHING=1", "TERMINAL=1"} {
		for _, r := range in.playTasks(t, []string{how}, tasks).results {
			if r["host"] == nil {
				t.Errorf("%s: %v", how, r)
			}
		}
	}
}

// testLoginShells checks that root's login shell may be any one, that BusyBox alone is enough, and that the server
// needs no Python.
func (in installation) testLoginShells(t *testing.T) {
	box := t.TempDir()
	applets := strings.Fields("sh cat find gzip id mkdir chmod mktemp mv readlink rm sha256sum sync uname wc env test")
	for _, applet := range applets {
		if err := os.Symlink("/bin/busybox", filepath.Join(box, applet)); err != nil {
			t.Fatal(err)
		}
	}
	for _, shell := range []string{"bash", "tcsh", "fish", "zsh", "ksh", "/bin/busybox env PATH=" + box + " sh"} {
		results := in.playTasks(t, []string{"LOGIN=" + shell}, `
- pcc.rewind.lvm_snapshot_info:
- pcc.rewind.lvm_snapshot_info:
  environment: {REWIND_TEST: "it's $HOME \\ !"}
  vars: {ansible_python_interpreter: /nowhere}
`).results
		for _, r := range results {
			if r["host"] == nil {
				t.Errorf("%s: %v", shell, r)
			}
		}
	}
}

// testRefused uses async, a server with a processor that there is no program for, and a user who cannot become root.
func (in installation) testRefused(t *testing.T) {
	results := in.playTasks(t, nil, `
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
`).results
	for i, why := range []string{"Leave async out", "no program for this server's processor (riscv64)", "become: true"} {
		if !strings.Contains(toJSON(results[i]["msg"]), why) {
			t.Errorf("the message does not say %q: %v", why, results[i])
		}
	}
}

// testKeptByOthers checks that a kept program is run only if nobody but root can change it or a directory above it.
func (in installation) testKeptByOthers(t *testing.T) {
	top, err := os.MkdirTemp("/root", "rewind-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	parent, kept := filepath.Join(top, "lib"), filepath.Join(top, "lib/rewind/bin")
	program := filepath.Join(kept, "rewind-12ab")
	writeFile(t, program, "#!/bin/sh\necho ran $1 $2; cat\n")
	script, err := in.run(t, absolute(t, "../../build/venv/bin/python"), "-c", `import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.pcc.rewind.plugins.plugin_utils import program as p
words = dict(answer=p.ANSWER, greeting=p.GREETING, directories=sys.argv[2], hashes="34cd 12ab", name="lvm_merge")
print(p.RUN % words, end="")`, in.dir, kept)
	if err != nil || strings.Contains(script, "\n") {
		t.Fatalf("%v: not one line: %s", err, script)
	}
	const ran, missing = "ran lvm_merge -\nthe arguments", "rewind-answer: missing"
	for _, c := range []struct{ path, mode, want string }{
		{parent, "755", ran}, {parent, "757", missing},
		{kept, "775", missing}, {program, "722", missing}, {program, "700", ran},
	} {
		const call = `chmod "$1" "$2" && printf 'rewind\nthe arguments' | sh -c "$3"; chmod 755 "$2"`
		out, err := in.run(t, "sh", "-c", call, "sh", c.mode, c.path, script)
		if err != nil || !strings.HasPrefix(out, c.want) {
			t.Errorf("%s of mode %s: %q, %v; want %q", c.path, c.mode, out, err, c.want)
		}
	}
}

// testWithoutCollection has Ansible send the programs themselves, as modules in a directory. It gives them names of its
// own.
func (in installation) testWithoutCollection(t *testing.T) {
	for _, module := range []string{"lvm_snapshot_info", "lvm_merge", "snap_backup_info"} {
		out, _ := in.run(t, append(in.argv(t, "ansible"), "localhost", "-c", "local", "-M",
			absolute(t, "../../build/bin/linux_amd64"), "-m", module, "-a", "bogus=1")...)
		if !strings.Contains(out, `"bogus: there is no such argument`) {
			t.Errorf("%s: %s", module, out)
		}
	}
}

// testPlaybooks checks that Ansible finds the playbooks by their names, and the playbooks their modules. This host is
// not a server with LVM, so the modules fail.
func (in installation) testPlaybooks(t *testing.T) {
	play := func(name string, words ...string) outcome {
		all := []string{"pcc.rewind." + name, "-e", "ansible_become=false", "--limit", "server"}
		return in.playPlaybook(t, nil, append(all, words...)...)
	}
	const volumes, place = "rewind_volumes=/dat", `{"rewind_backend_options": {"path": "/nowhere"}}`
	for _, name := range []string{"snapshot", "backup", "restore", "schedule"} {
		if p := play(name, "-e", volumes, "-e", place); !p.unsupported() {
			t.Errorf("%s: %v", name, p.results)
		}
	}
	for _, name := range []string{"rollback", "remove"} {
		if p := play(name, "-e", place); !p.unsupported() {
			t.Errorf("%s: %v", name, p.results)
		}
		if p := play(name, "-e", volumes); !strings.Contains(toJSON(p.last()["msg"]), "rewind_volumes does not narrow a") {
			t.Errorf("%s with rewind_volumes: %v", name, p.results)
		}
	}
	if p := play("prepare"); !strings.Contains(toJSON(p.last()["msg"]), "cannot be snapshotted") {
		t.Errorf("prepare: %v", p.results)
	}
	page := filepath.Join(t.TempDir(), "page")
	p := play("status", "-e", "rewind_page="+page)
	report, err := os.ReadFile(page + "/fleet.json")
	const counts = `"counts":{"bad":0,"unreachable":0,"warn":1,"ok":0}`
	if err != nil || !strings.Contains(string(report), counts) || !strings.Contains(string(report), `"known":2`) ||
		!strings.Contains(string(report), `"host":"server","verdict":"warn"`) {
		t.Errorf("status: %v, %s, %v", p.results, report, err)
	}
	p = play("snapshot", "-e", "rewind_volums=/dat")
	if !strings.Contains(toJSON(p.last()["msg"]), "there is no rewind_volums") {
		t.Errorf("a variable that is misspelt: %v", p.results)
	}
}
