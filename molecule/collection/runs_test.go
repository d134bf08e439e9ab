//go:build playbooks

package collection

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// answeringProgram is a script that takes the place of the program. It appends its arguments to the file ASKED, and
// answers each call with the next line of the file ANSWERS.
const answeringProgram = `#!/bin/sh
cat >>"$ASKED"; echo >>"$ASKED"
sed -n "$(wc -l <"$ASKED")p" "$ANSWERS"
`

// unfinishedAnswer is the answer about a run that is storing a backup and has come to the given percentage.
func unfinishedAnswer(percent string) string {
	return `{"changed":true,"finished":false,"msg":"-",` +
		`"run":{"id":"the-run","title":"back up","label":"storing","percent":` + percent + "}}\n"
}

// testLongRuns checks that a task whose run takes long asks for that run by its ID until it ends, shows its progress,
// and does not begin another one. A task with detach: true or run: asks once.
func (in installation) testLongRuns(t *testing.T) {
	in = in.withProgram(t, answeringProgram)
	const unanswered = `{"failed":true,"finished":false,"msg":"systemd does not answer"}` + "\n"
	const silence = "\n" // as of a sudo that fails for a moment
	const stored = `{"changed":true,"finished":true,"msg":"stored"}` + "\n"
	answers := strings.Join([]string{
		unfinishedAnswer("null"), silence, unanswered, unfinishedAnswer("31.4"), unfinishedAnswer("33"), stored,
		unfinishedAnswer("0"),
		unfinishedAnswer("50"),
	}, "")
	asked := filepath.Join(in.dir, "asked")
	writeFile(t, filepath.Join(in.dir, "answers"), answers)
	environment := []string{"ASKED=" + asked, "ANSWERS=" + filepath.Join(in.dir, "answers"), "LOSES=5", "SLOW=6"}
	p := in.playTasks(t, environment, `
- pcc.rewind.lvm_snapshot: {volumes: /dat}
- pcc.rewind.lvm_snapshot: {volumes: /dat, detach: true}
- pcc.rewind.lvm_snapshot: {run: the-run}
`)
	lines, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(string(lines)) {
		var call map[string]any
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, fmt.Sprint(call["run"], " ", call["_ansible_patience"]))
	}
	const first, poll = "<nil> 1", "the-run 1"
	if want := []string{first, poll, poll, poll, poll, poll, "<nil> <nil>", "the-run <nil>"}; !slices.Equal(calls, want) {
		t.Errorf("asked: %q, want %q", calls, want)
	}
	if p.results[0]["msg"] != "stored" || p.results[0]["finished"] != nil {
		t.Errorf("the result of the task: %v", p.results[0])
	}
	for _, r := range p.results[1:] {
		if r["finished"] != false {
			t.Errorf("a task that does not wait: %v", r)
		}
	}
	const line = "server: back up: storing"
	if n := strings.Count(p.shown, line); n != 2 || !strings.Contains(p.shown, line+" 31 %") {
		t.Errorf("%d lines of progress:\n%s", n, p.shown)
	}
	if !strings.Contains(p.shown, "server is asked again in") {
		t.Errorf("the connection was lost at a poll, and that is not shown:\n%s", p.shown)
	}
}

// withProgram returns a copy of an installation with a script in the place of the programs. It polls every second.
func (in installation) withProgram(t *testing.T, script string) installation {
	t.Helper()
	to := installation{dir: t.TempDir(), ansible: in.ansible}
	if out, err := exec.Command("cp", "-a", in.dir+"/.", to.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := filepath.Join(to.dir, "ansible_collections/pcc/rewind/files")
	action := filepath.Join(files, "../plugins/plugin_utils/program.py")
	impatient := exec.Command("sed", "-i", "s/^PATIENCE = 10$/PATIENCE = 1/", action)
	if out, err := impatient.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	writeFile(t, filepath.Join(files, "stub"), script)
	if out, err := exec.Command("gzip", "-kf", filepath.Join(files, "stub")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(script)))
	stub := map[string]any{"file": "stub.gz", "sha256": sum, "size": len(script)}
	byMachine := map[string]any{"amd64": stub, "arm64": stub}
	writeFile(t, filepath.Join(files, "programs.json"), toJSON(map[string]any{"lvm": byMachine, "snap": byMachine}))
	return to
}
