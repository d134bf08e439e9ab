//go:build lab

// Package scenarios holds what Rewind promises against real LVM, in a lab guest. Each scenario says in its log what it
// proved. They are run by make test and, with the full matrix of faults, by make torture:
//
//	LAB=d12 go test -tags lab ./molecule/scenarios
//
// The guest is a fresh one, restored from the lab's saved state, and ends with the tests. INSTANCE names it otherwise
// than scenarios-$LAB, KEEP=1 keeps it.
package scenarios

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// commandLimit bounds one command in the guest, where everything is emulated.
const commandLimit = 10 * time.Minute

// root is the repository's root, seen from this package's directory.
const root = "../.."

// active holds while the application, the database's service and its cluster are all active: systemctl alone is content
// with one of them.
const active = `test "$(systemctl is-active pccehr postgresql 'postgresql@*-main.service' | xargs)" = "active active active"`

// torture asks for the full matrix of faults, which takes hours; without it each kind of fault is shown once.
var torture = flag.Bool("torture", false, "the full matrix of faults")

// guest is a lab guest.
type guest struct {
	name string // of the instance
	lab  string // d12 or d13
}

// theGuest is the guest of this run of the tests.
var theGuest = guest{}

// guestFor returns the guest of this run. After a test that failed it is restored: what that one left behind would fail
// the tests that follow, and they would be looked at in its place.
func guestFor(t *testing.T) guest {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if err := theGuest.fresh(); err != nil {
			t.Errorf("a fresh guest after this failure: %v", err)
		}
	})
	return theGuest
}

func TestMain(m *testing.M) {
	lab := os.Getenv("LAB")
	if lab != "d12" && lab != "d13" {
		fmt.Fprintln(os.Stderr, "scenarios: set LAB to d12 or d13")
		os.Exit(2)
	}
	theGuest = guest{name: cmp.Or(os.Getenv("INSTANCE"), "scenarios-"+lab), lab: lab}
	if err := theGuest.fresh(); err != nil {
		fmt.Fprintln(os.Stderr, "scenarios:", err)
		os.Exit(1)
	}
	code := m.Run()
	theGuest.disconnect()
	if os.Getenv("KEEP") == "" {
		_ = theGuest.labScript("down", theGuest.name)
	}
	os.Exit(code)
}

// fresh restores the guest's saved state and puts the modules, built with failpoints, into it.
func (g guest) fresh() error {
	if err := g.labScript("up", g.name, "--from", g.lab); err != nil {
		return err
	}
	if err := g.labScript("reset", g.name); err != nil {
		return err
	}
	if err := g.connect(); err != nil {
		return err
	}
	return g.install()
}

// install copies the modules into the guest's /usr/local/bin, where they are after a power cut, too.
func (g guest) install() error {
	tar := exec.Command("tar", "-C", filepath.Join(root, "build/lab-bin/linux_amd64"), "-cz", ".")
	data, err := tar.Output()
	if err != nil {
		return fmt.Errorf("modules for the lab: %w; make lab-bin builds them", err)
	}
	_, err = g.ssh("tar -C /usr/local/bin -xz && sync -f /usr/local/bin", data)
	return err
}

func (g guest) labScript(args ...string) error {
	cmd := exec.Command(filepath.Join(root, "molecule/lab/lab"), args...)
	cmd.Dir = "."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("lab %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// exitError is a command in the guest that ended with an error.
type exitError struct {
	command, output string
	code            int
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s: exit code %d\n%s", e.command, e.code, e.output)
}

// ssh runs a script in the guest and returns what it printed on stdout; stderr is in the error.
func (g guest) ssh(script string, stdin []byte) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append(g.sshArgs(), script)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out.String(), &exitError{script, out.String() + errs.String(), exit.ExitCode()}
	}
	return out.String(), err
}

// try runs a script and returns its output, whether it failed or not.
func (g guest) try(script string) (string, error) { return g.ssh(script, nil) }

// run runs a script that must succeed, and returns its output without the last newline.
func (g guest) run(t *testing.T, script string) string {
	t.Helper()
	out, err := g.try(script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(out, "\n")
}

// number runs a script that must print one number.
func (g guest) number(t *testing.T, script string) int {
	t.Helper()
	n, err := strconv.Atoi(g.run(t, script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return n
}

// result is what a module says, as Ansible sees it.
type result map[string]any

func (r result) code() string { s, _ := r["code"].(string); return s }
func (r result) msg() string  { s, _ := r["msg"].(string); return s }

// module runs a module with words, as by hand with --json, and returns its result, failed or not.
func (g guest) module(t *testing.T, words string) result {
	t.Helper()
	out, err := g.try(words + " --json 2>/dev/null")
	var r result
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		t.Fatalf("%s printed no result: %v\n%v\n%s", words, jsonErr, err, out)
	}
	return r
}

// ok runs a module that must succeed.
func (g guest) ok(t *testing.T, words string) result {
	t.Helper()
	r := g.module(t, words)
	if failed, _ := r["failed"].(bool); failed {
		text, _ := json.MarshalIndent(r, "", " ")
		t.Fatalf("%s failed: %s", words, text)
	}
	return r
}

// fails runs a module that must fail with a code.
func (g guest) fails(t *testing.T, words, code string) result {
	t.Helper()
	r := g.module(t, words)
	if failed, _ := r["failed"].(bool); !failed || r.code() != code {
		text, _ := json.MarshalIndent(r, "", " ")
		t.Fatalf("%s: want a failure with code %s, got: %s", words, code, text)
	}
	return r
}

// eventually waits until a script succeeds in the guest, trying it again there without a pause longer than 200 ms.
func (g guest) eventually(t *testing.T, what, script string, limit time.Duration) {
	t.Helper()
	loop := fmt.Sprintf("end=$((SECONDS+%d)); until (%s) >/dev/null 2>&1; do [ $SECONDS -lt $end ] || exit 9; sleep 0.2; done", int(limit.Seconds()), script)
	if _, err := g.try("bash -c " + quote(loop)); err != nil {
		// A failpoint that was not reached would stop a run of the next test.
		state, _ := g.try(goOn + "; lvs -a -o +lv_tags; dmsetup info -c; findmnt -rn | tail -20; " +
			"systemctl list-jobs --no-legend; ps axo pid,stat,wchan:25,args | grep -v ' \\[' | tail -40; " +
			"journalctl -u 'rewind-*' --no-pager | tail -30")
		t.Fatalf("%s did not come within %s: %v\n%s", what, limit, err, state)
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// cut cuts the guest's power and boots it again; how are words for lab boot.
func (g guest) cut(t *testing.T, how ...string) {
	t.Helper()
	if err := g.labScript("cut", g.name); err != nil {
		t.Fatal(err)
	}
	if err := g.labScript(append([]string{"boot", g.name}, how...)...); err != nil {
		t.Fatal(err)
	}
	if err := g.connect(); err != nil {
		t.Fatal(err)
	}
}
