//go:build playbooks

// Package rollouts runs the playbooks on several servers, with each of several versions of Ansible. The servers are all
// this host, and the modules are stubs: what is tested is in which order the servers are changed, and at which failure
// a playbook ends.
package rollouts

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// moduleStub takes the place of every module. It appends the server's name, which is the set's name here, to the file
// "touched", and goes wrong in the way that a file with that server's name asks for.
const moduleStub = `#!/bin/bash
# WANT_JSON
name=$(sed -n 's/.*"name": "\([^"]*\)".*/\1/p' "$1") # action=check has no name
echo "$name" >>"$ROLLOUT/touched"
if [ -e "$ROLLOUT/boxed-$name" ]; then
	echo '{"failed": true, "msg": "this is a container (lxc)", "container": "lxc"}'
	exit 1
fi
if [ -e "$ROLLOUT/fails-$name" ]; then echo '{"failed": true, "msg": "no such luck"}'; exit 1; fi
if [ -e "$ROLLOUT/waits" ] && [ "$name" ]; then # until another server's module runs, too, for 30 s at most
	touch "$ROLLOUT/here-$name"
	for ((i = 0; i < 300; i++)); do
		[ -e "$ROLLOUT/throttled" ] && [ $i -gt 10 ] && break
		set -- "$ROLLOUT"/here-*
		[ $# -lt 2 ] || { echo met >>"$ROLLOUT/touched"; break; }
		sleep 0.1
	done
	[ -e "$ROLLOUT/throttled" ] && rm "$ROLLOUT/here-$name"
fi
if [ -e "$ROLLOUT/loses-$name" ]; then touch "$ROLLOUT/lost-$name"; fi
echo '{"changed": true, "msg": "done", "discarded_since": "10:00", "volumes": [{"discarded_bytes": 4096}]}'
`

// losableConnection is a connection plugin that runs commands on this host. A server is lost while the file "lost-NAME"
// exists.
const losableConnection = `
DOCUMENTATION = """
name: losable
short_description: a connection that can be lost
description: a connection that can be lost
author: nobody
"""
import os
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

class Connection(Local):
    transport = "losable"
    def _connect(self):
        if os.path.exists(os.path.join(os.environ["ROLLOUT"], "lost-" + self._play_context.remote_addr)):
            raise AnsibleConnectionFailure("no route to host")
        return super()._connect()
    def exec_command(self, *args, **more):
        self._connect()
        return super().exec_command(*args, **more)
    def put_file(self, *args, **more):
        self._connect()
        return super().put_file(*args, **more)
`

// verifyScript is the command of rewind_verify, which checks a server. It loses the server if the file "quits-NAME"
// asks for that.
const verifyScript = `#!/bin/sh
cd "$(dirname "$0")" && if [ -e "quits-$1" ]; then mv "quits-$1" "lost-$1"; fi
`

// inventory has three servers. The first one is the canary, on which a rollout begins.
const inventory = `all:
  vars:
    ansible_connection: losable
    ansible_become: false
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    rewind_name: "{{ inventory_hostname }}"
    rewind_volumes: /dat
    rewind_verify: "{{ lookup('env', 'ROLLOUT') }}/verify {{ inventory_hostname }}"
  hosts: {one: {}, two: {}, three: {}}
`

// TestRollouts runs each playbook with servers that fail, are lost on the way, cannot be reached from the start, or are
// containers.
func TestRollouts(t *testing.T) {
	all := []string{"one", "two", "three"}
	for _, c := range []struct {
		name, playbook string
		strikes        string   // the files that make servers go wrong
		touched        []string // the servers whose modules run
		fails          bool
		says           string
	}{
		{"all goes well", "rollback", "", all, false, "thrown away: up to 4.00 KB, written since 10:00"},
		{"the canary fails", "rollback", "fails-one", all[:1], true, "no such luck"},
		{"the canary cannot be reached", "rollback", "lost-one", nil, true, "no route to host"},
		{"the canary is lost before", "rollback", "quits-one", nil, true, "no route to host"},
		{"the canary is lost meanwhile", "rollback", "loses-one", all[:1], true, "no route to host"},
		{"a later server is lost meanwhile", "rollback", "loses-two", all[:2], true, "no route to host"},
		{"all goes well", "snapshot", "", all, false, "done"},
		{"the canary fails", "snapshot", "fails-one", all[:1], true, "no such luck"},
		{"the canary cannot be reached", "snapshot", "lost-one", nil, true, "no route to host"},
		{"all goes well", "restore", "", all, false, "thrown away: what was written since 10:00"},
		{"the canary cannot be reached", "restore", "lost-one", nil, true, "no route to host"},
		{"the canary is lost meanwhile", "restore", "loses-one", all[:1], true, "no route to host"},
		{"the canary is a container", "rollback", "boxed-one", all[:1], true, "as the first server it shows nothing"},
		{"the second is a container", "rollback", "boxed-two", all, false, "left out: this is a container"},
		{"the last is a container", "remove", "boxed-three", all, false, "left out: this is a container"},
		{"the second is a container", "snapshot", "boxed-two", all, false, "left out: this is a container"},
		{"the second is a container", "restore", "boxed-two", all, false, "left out: this is a container"},
		{"the second is a container", "schedule", "boxed-two", all, false, "left out: this is a container"},
		{"a server is a container", "backup", "boxed-one", all, true, "this is a container"},
		{"all goes well", "schedule", "", all, false, "done"},
		{"the canary cannot be reached", "schedule", "lost-one", nil, true, "no route to host"},
		{"the canary cannot be reached", "remove", "lost-one", nil, true, "no route to host"},
		{"a server cannot be reached", "backup", "lost-one", all[1:], true, "no route to host"},
		{"a server fails", "backup", "fails-two", all, true, "no such luck"},
	} {
		for _, ansible := range ansibles(t) {
			version := filepath.Base(ansible)
			t.Run(c.playbook+", "+c.name+", "+version, func(t *testing.T) {
				t.Parallel()
				out, touched, err := play(t, ansible, c.playbook, c.strikes)
				if (err != nil) != c.fails || !strings.Contains(out, c.says) {
					t.Errorf("%v, and the output does not say %q", err, c.says)
				}
				slices.Sort(touched)
				want := slices.Clone(c.touched)
				slices.Sort(want)
				if touched = slices.Compact(touched); !slices.Equal(touched, want) {
					t.Errorf("modules ran on %q, want %q", touched, want)
				}
				if t.Failed() {
					t.Log(out)
				}
			})
		}
	}
}

// TestAdministratorsSettings checks that what an administrator has set for other playbooks changes neither where a
// rollout ends nor that a backup is made of every server.
func TestAdministratorsSettings(t *testing.T) {
	all := []string{"one", "two", "three"}
	for _, c := range []struct {
		playbook, setting, strikes, more string
		touched                          []string // the servers whose modules run
		fails                            bool
	}{
		{"rollback", "ANSIBLE_STRATEGY=free", "fails-one", "rewind_serial", all[:2], true},
		{"snapshot", "ANSIBLE_STRATEGY=host_pinned", "fails-one", "rewind_serial", all[:2], true},
		{"restore", "ANSIBLE_STRATEGY=free", "fails-one", "rewind_serial", all[:2], true},
		{"remove", "ANSIBLE_STRATEGY=free", "fails-one", "rewind_serial", all[:2], true},
		{"schedule", "ANSIBLE_STRATEGY=free", "fails-one", "rewind_serial", all[:2], true},
		{"backup", "ANSIBLE_STRATEGY=free", "fails-one", "rewind_throttle", all, true},
		{"backup", "ANSIBLE_ANY_ERRORS_FATAL=true", "fails-one", "rewind_throttle", all, true},
		{"rollback", "ANSIBLE_JINJA2_NATIVE=true", "", "rewind_serial", all, false},
	} {
		for _, ansible := range ansibles(t) {
			t.Run(c.playbook+", "+c.setting+", "+filepath.Base(ansible), func(t *testing.T) {
				t.Parallel()
				extra := map[string]string{"rewind_serial": `{"rewind_serial": [2, 1]}`, "rewind_throttle": "rewind_throttle=1"}
				out, touched, err := play(t, ansible, c.playbook, c.strikes, c.setting, "-e", extra[c.more])
				slices.Sort(touched)
				want := slices.Sorted(slices.Values(c.touched))
				if touched = slices.Compact(touched); (err != nil) != c.fails || !slices.Equal(touched, want) {
					t.Errorf("%v; modules ran on %q, want %q\n%s", err, touched, want, out)
				}
			})
		}
	}
}

// TestInventorysBatchesAreRefused checks that a playbook changes nothing where an inventory says how many servers at a
// time, which Ansible reads too late to heed it.
func TestInventorysBatchesAreRefused(t *testing.T) {
	more := filepath.Join(t.TempDir(), "more.yml")
	if err := os.WriteFile(more, []byte("all: {vars: {rewind_serial: 1}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ansible := range ansibles(t) {
		for _, playbook := range []string{"rollback", "restore", "snapshot", "remove", "schedule"} {
			t.Run(playbook+", "+filepath.Base(ansible), func(t *testing.T) {
				t.Parallel()
				out, touched, err := play(t, ansible, playbook, "", "-i", more)
				const why = "rewind_serial is 1, and the inventory's is not heeded"
				if err == nil || len(touched) > 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), why) {
					t.Errorf("%v; modules ran on %q, and the output does not say %q\n%s", err, touched, why, out)
				}
			})
		}
	}
}

// TestWhatChoosesSomethingElseIsRefused checks that a playbook changes nothing where -e chooses what it does not work
// on, and that an inventory may have the same for other playbooks.
func TestWhatChoosesSomethingElseIsRefused(t *testing.T) {
	for _, c := range []struct{ playbook, name, says string }{
		{"remove", "rewind_volumes", "rewind_volumes does not narrow a removal"},
		{"remove", "rewind_snapshots", "rewind_snapshots chooses nothing for a removal"},
		{"remove", "rewind_restore_id", "rewind_restore_id chooses nothing for a removal"},
		{"remove", "rewind_host", "rewind_host chooses no server for a removal"},
		{"rollback", "rewind_volumes", "rewind_volumes does not narrow a rollback"},
		{"rollback", "rewind_restore_id", "rewind_restore_id chooses nothing for a rollback"},
		{"rollback", "rewind_host", "rewind_host chooses no server for a rollback"},
		{"backup", "rewind_serial", "rewind_serial is refused here"},
		{"prepare", "rewind_serial", "rewind_serial is refused here"},
		{"restore", "rewind_snapshots", "rewind_snapshots chooses nothing for a restore"},
	} {
		for _, ansible := range ansibles(t) {
			t.Run(c.playbook+", "+c.name+", "+filepath.Base(ansible), func(t *testing.T) {
				t.Parallel()
				out, touched, err := play(t, ansible, c.playbook, "", "-e", c.name+"=one")
				if err == nil || len(touched) > 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), c.says) {
					t.Errorf("%v; modules ran on %q, and the output does not say %q\n%s", err, touched, c.says, out)
				}
				if c.name == "rewind_serial" { // an inventory's is refused, too
					return
				}
				more := filepath.Join(t.TempDir(), "more.yml")
				if err := os.WriteFile(more, []byte("all: {vars: {"+c.name+": one}}\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if out, _, err := play(t, ansible, c.playbook, "", "-i", more); err != nil {
					t.Errorf("in an inventory: %v\n%s", err, out)
				}
			})
		}
	}
}

// TestBackupsShareTheRepository checks that as many servers back up at the same time as rewind_throttle allows, and
// that a server that is lost does not keep the others from their backups.
func TestBackupsShareTheRepository(t *testing.T) {
	all := []string{"one", "two", "three"}
	for _, ansible := range ansibles(t) {
		for _, c := range []struct {
			name, words, strikes string
			meet, fails          bool
		}{
			{"as many as there are", "rewind_keep=3", "waits", true, false},
			{"one at a time", "rewind_throttle=1", "waits throttled", false, false},
			{"the first is lost", "rewind_throttle=1", "loses-one", false, true},
			{"the second is lost", "rewind_throttle=1", "loses-two", false, true},
			{"no number", "rewind_throttle=25%", "", false, true},
		} {
			t.Run(c.name+", "+filepath.Base(ansible), func(t *testing.T) {
				t.Parallel()
				out, touched, err := play(t, ansible, "backup", c.strikes, "-e", c.words)
				if (err != nil) != c.fails || slices.Contains(touched, "met") != c.meet {
					t.Errorf("%v; two servers backed up at the same time: %v\n%s", err, !c.meet, out)
				}
				for _, name := range all {
					if want := c.words != "rewind_throttle=25%"; slices.Contains(touched, name) != want {
						t.Errorf("%s was backed up: %v\n%s", name, !want, out)
					}
				}
			})
		}
	}
}

// TestRescueImageAndDumps checks the order of a backup: the rescue image, the dumps, the files. The files are backed up
// even if one of the others fails.
func TestRescueImageAndDumps(t *testing.T) {
	for _, ansible := range ansibles(t) {
		for _, c := range []struct{ name, dump, says string }{
			{"both", `"true | echo dumped >>$ROLLOUT/touched"`, ""},
			{"a dump fails", `"echo dumped >>$ROLLOUT/touched; (echo no such database >&2; exit 1) | cat"`, "no such database"},
			{"the first of two fails", `"(echo no such table >&2; exit 3); echo dumped >>$ROLLOUT/touched"`, "no such table"},
			{"one of a loop fails", `"for i in 1 2; do [ $i = 2 ]; done\necho dumped >>$ROLLOUT/touched"`, "not all else went"},
			{"one that may fail", `"false || true; echo dumped >>$ROLLOUT/touched # that is all"`, ""},
			{"it ends itself", `"echo dumped >>$ROLLOUT/touched; exit 4"`, "not all else went"},
		} {
			t.Run(c.name+", "+filepath.Base(ansible), func(t *testing.T) {
				t.Parallel()
				variables := `{"rewind_rescue": true, "rewind_dump": ` + c.dump + `}`
				out, touched, err := play(t, ansible, "backup", "", "--limit", "two", "-e", variables)
				want := []string{"rear", "dumped", "two"}
				rightOutcome := (err != nil) == (c.says != "") && strings.Contains(out, c.says)
				if !slices.Equal(touched, want) || !rightOutcome {
					t.Errorf("%q, want %q, saying %q: %v\n%s", touched, want, c.says, err, out)
				}
			})
		}
	}
}

// ansibles returns the directories of all versions of Ansible.
func ansibles(t *testing.T) []string {
	t.Helper()
	others, err := filepath.Glob("../../build/ansible/*")
	if err != nil {
		t.Fatal(err)
	}
	return append(others, "../../build/venv")
}

// TestPlaybooksNameTheKnownVariables checks that the variables in the comments at the heads of the playbooks are those
// in vars/known.yml, and that there is no other one there.
func TestPlaybooksNameTheKnownVariables(t *testing.T) {
	books, err := filepath.Glob("../../playbooks/*.yml")
	if err != nil || len(books) == 0 {
		t.Fatal(books, err)
	}
	var named []string
	for _, book := range books {
		for line := range strings.Lines(readFile(t, book)) {
			if words := strings.Fields(line); len(words) > 2 && words[0] == "#" && strings.HasPrefix(words[1], "rewind_") {
				named = append(named, words[1])
			}
		}
	}
	var known []string
	for line := range strings.Lines(readFile(t, "../../playbooks/vars/known.yml")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			known = append(known, name)
		}
	}
	slices.Sort(named)
	if named = slices.Compact(named); !slices.Equal(named, known) {
		t.Errorf("the playbooks name %q, and known.yml has %q", named, known)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// play runs a playbook with the Ansible of a directory and more arguments; those that begin with ANSIBLE_ are settings
// in the environment. Before that it makes the files with the names in strikes. It returns what ansible-playbook
// printed, and the lines of the file "touched".
func play(t *testing.T, ansible, playbook, strikes string, more ...string) (out string, touched []string, err error) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"inventory.yml": inventory, "connections/losable.py": losableConnection, "verify": verifyScript,
		"ansible.cfg": "[defaults]\nnocolor=1\n", "touched": "",
	}
	for _, strike := range strings.Fields(strikes) {
		files[strike] = ""
	}
	files["bin/rear"] = "#!/bin/sh\n[ $* = mkrescue ] && echo rear >>$ROLLOUT/touched\n"
	for _, module := range []string{"lvm_snapshot", "lvm_merge", "lvm_snapshot_info", "snap_backup"} {
		files["library/"+module] = moduleStub
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ansible, err = filepath.Abs(ansible)
	if err != nil {
		t.Fatal(err)
	}
	book := "../../playbooks/" + playbook + ".yml"
	words := []string{ansible + "/bin/ansible-playbook", "-i", dir + "/inventory.yml", book}
	isSetting := func(word string) bool { return strings.HasPrefix(word, "ANSIBLE_") }
	words = append(words, slices.DeleteFunc(slices.Clone(more), isSetting)...)
	cmd := exec.Command("../../build/venv/bin/python", words...)
	for _, word := range more {
		if isSetting(word) {
			cmd.Env = append(cmd.Env, word)
		}
	}
	cmd.Env = append(append(os.Environ(), cmd.Env...),
		"PYTHONPATH="+ansible, "ROLLOUT="+dir, "HOME="+dir, "PATH="+dir+"/bin:"+os.Getenv("PATH"),
		"ANSIBLE_CONFIG="+dir+"/ansible.cfg", "ANSIBLE_LIBRARY="+dir+"/library",
		"ANSIBLE_CONNECTION_PLUGINS="+dir+"/connections")
	printed, err := cmd.CombinedOutput()
	noted, readErr := os.ReadFile(dir + "/touched")
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(printed), strings.Fields(string(noted)), err
}
