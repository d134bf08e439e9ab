//go:build playbooks

// Package collection installs the collection that `make collection` built into an empty directory, and runs its modules
// on this host, in a mount namespace in which nothing is kept yet, with each of several versions of Ansible.
package collection

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

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

// newest is where the newest version of Ansible is.
const newest = "../../build/venv"

func TestCollection(t *testing.T) {
	built := tarball(t)
	others, err := filepath.Glob("../../build/ansible/*")
	if err != nil {
		t.Fatal(err)
	}
	for i, ansible := range append(others, newest) {
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
			if i == 0 || ansible == newest { // the oldest, and the newest
				t.Run("logins", in.logins)
			}
			if ansible == newest { // what the shells are given is of our own
				t.Run("login shells", in.loginShells)
			}
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
	p := in.play(t, nil, `
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

func (in installed) tasks(t *testing.T) {
	results := in.play(t, nil, `
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
		results := in.play(t, []string{how}, "\n- pcc.rewind.lvm_snapshot_info:\n- pcc.rewind.lvm_snapshot_info:\n").results
		for _, r := range results {
			if r["host"] == nil {
				t.Errorf("%s: %v", how, r)
			}
		}
	}
}

// Root's login shell may be any, and the server's tools BusyBox's alone. Python it needs none.
func (in installed) loginShells(t *testing.T) {
	box := t.TempDir()
	for _, applet := range []string{"sh", "cat", "find", "gzip", "id", "mkdir", "chmod", "mktemp", "mv", "readlink", "rm", "sha256sum", "sync", "uname", "wc",
		"env", "test"} {
		if err := os.Symlink("/bin/busybox", filepath.Join(box, applet)); err != nil {
			t.Fatal(err)
		}
	}
	for _, shell := range []string{"bash", "tcsh", "fish", "zsh", "ksh", "/bin/busybox env PATH=" + box + " sh"} {
		results := in.play(t, []string{"LOGIN=" + shell}, `
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

func (in installed) refused(t *testing.T) {
	results := in.play(t, nil, `
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
	play := func(name string, words ...string) played {
		return in.playbook(t, nil, append([]string{"pcc.rewind." + name, "-e", "ansible_become=false", "--limit", "server"}, words...)...)
	}
	const volumes, elsewhere = "rewind_volumes=/dat", `{"rewind_backend_options": {"path": "/nowhere"}}`
	for _, name := range []string{"snapshot", "backup", "restore", "schedule"} {
		if p := play(name, "-e", volumes, "-e", elsewhere); !p.unsupported() {
			t.Errorf("%s: %v", name, p.results)
		}
	}
	for _, name := range []string{"rollback", "remove"} {
		if p := play(name, "-e", elsewhere); !p.unsupported() {
			t.Errorf("%s: %v", name, p.results)
		}
		if p := play(name, "-e", volumes); !strings.Contains(text(p.last()["msg"]), "rewind_volumes does not narrow a") {
			t.Errorf("%s of a part of a set: %v", name, p.results)
		}
	}
	if p := play("prepare"); !strings.Contains(text(p.last()["msg"]), "cannot be snapshotted") {
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
	if p := play("snapshot", "-e", "rewind_volums=/dat"); !strings.Contains(text(p.last()["msg"]), "there is no rewind_volums") {
		t.Errorf("a variable that is misspelt: %v", p.results)
	}
}
