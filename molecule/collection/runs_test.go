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

// slow stands in the place of the program. It notes what it is asked, and answers each call with the next line of a
// file.
const slow = `#!/bin/sh
cat >>"$ASKED"; echo >>"$ASKED"
sed -n "$(wc -l <"$ASKED")p" "$ANSWERS"
`

// goingOn is the answer about a run that stores, at so many percent.
func goingOn(percent string) string {
	return `{"changed":true,"finished":false,"msg":"-",` +
		`"run":{"id":"the-run","title":"back up","label":"storing","percent":` + percent + "}}\n"
}

// A task whose run takes long asks for it by its id until it ends, shows how far it is, and begins no other one. A task
// that wants to wait for none asks once.
func (in installed) longRuns(t *testing.T) {
	in = in.with(t, slow)
	const unanswered = `{"failed":true,"finished":false,"msg":"systemd does not answer"}` + "\n"
	const stored = `{"changed":true,"finished":true,"msg":"stored"}` + "\n"
	answers := goingOn("null") + unanswered + goingOn("31.4") + goingOn("33") + stored + goingOn("0") + goingOn("50")
	asked := filepath.Join(in.dir, "asked")
	write(t, filepath.Join(in.dir, "answers"), answers)
	environment := []string{"ASKED=" + asked, "ANSWERS=" + filepath.Join(in.dir, "answers"), "LOSES=5", "SLOW=6"}
	p := in.play(t, environment, `
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
	if want := []string{first, poll, poll, poll, poll, "<nil> <nil>", "the-run <nil>"}; !slices.Equal(calls, want) {
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
		t.Errorf("a poll is lost, and nothing is said of it:\n%s", p.shown)
	}
}

// with is a copy of what is installed, with a script in the place of the programs, and a second's patience.
func (in installed) with(t *testing.T, script string) installed {
	t.Helper()
	to := installed{dir: t.TempDir(), ansible: in.ansible}
	if out, err := exec.Command("cp", "-a", in.dir+"/.", to.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := filepath.Join(to.dir, "ansible_collections/pcc/rewind/files")
	action := filepath.Join(files, "../plugins/plugin_utils/program.py")
	impatient := exec.Command("sed", "-i", "s/^PATIENCE = 10$/PATIENCE = 1/", action)
	if out, err := impatient.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write(t, filepath.Join(files, "stub"), script)
	if out, err := exec.Command("gzip", "-kf", filepath.Join(files, "stub")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(script)))
	stub := map[string]any{"file": "stub.gz", "sha256": sum, "size": len(script)}
	byMachine := map[string]any{"amd64": stub, "arm64": stub}
	write(t, filepath.Join(files, "programs.json"), text(map[string]any{"lvm": byMachine, "snap": byMachine}))
	return to
}
