//go:build lab

// Package scenarios tests what Rewind promises, with real LVM in a guest of the lab (molecule/lab). Each scenario
// writes into its log what it has shown. make test runs a part of them, make torture all of them with every fault:
//
//	LAB=d12 go test -tags lab ./molecule/scenarios
//
// The guest is restored from the lab's saved state before the tests, and removed after them. Its name is
// scenarios-$LAB, unless INSTANCE gives another one. With KEEP=1 the guest is not removed.
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

// commandLimit is the longest time that one command in the guest may take. On a machine without KVM the guest is
// emulated, and slow.
const commandLimit = 10 * time.Minute

// root is the path of the repository's root from this package's directory, in which go test runs the tests.
const root = "../.."

// allActive is a shell condition: the application, the database's service and the unit of its cluster are all active.
// The exit code of systemctl alone would be 0 if only one of them was active.
const allActive = `test "$(systemctl is-active pccehr postgresql 'postgresql@*-main.service' | xargs)" = ` +
	`"active active active"`

// torture asks for every fault at every place, which takes hours. Without it each kind of fault is tried once.
var torture = flag.Bool("torture", false, "the full matrix of faults")

// guest is a lab guest.
type guest struct {
	name string // of the instance
	lab  string // d12 or d13
}

// theGuest is the one guest that all tests use. TestMain sets it.
var theGuest = guest{}

// guestFor returns theGuest. If the test fails, the guest is restored to its saved state after it, so that what the
// test has left behind does not fail later tests, too.
func guestFor(t *testing.T) guest {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if err := theGuest.reset(); err != nil {
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
	if err := theGuest.reset(); err != nil {
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

// reset restores the guest's saved state and installs the modules that were built with failpoints.
func (g guest) reset() error {
	if err := g.labScript("down", g.name); err != nil { // what a run that was ended left behind, too
		return err
	}
	if err := g.labScript("up", g.name, "--from", g.lab); err != nil {
		return err
	}
	if err := g.connect(); err != nil {
		return err
	}
	return g.installModules()
}

// installModules copies the modules into the guest's /usr/local/bin and writes them out to its disk, so that a power
// cut does not remove them.
func (g guest) installModules() error {
	tar := exec.Command("tar", "-C", filepath.Join(root, "build/lab-bin/linux_amd64"), "-cz", ".")
	data, err := tar.Output()
	if err != nil {
		return fmt.Errorf("modules for the lab: %w; make lab-bin builds them", err)
	}
	_, err = g.ssh("tar -C /usr/local/bin -xz && sync -f /usr/local/bin", data)
	return err
}

// labScript runs molecule/lab/lab with arguments.
func (g guest) labScript(args ...string) error {
	cmd := exec.Command(filepath.Join(root, "molecule/lab/lab"), args...)
	cmd.Dir = "."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("lab %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// exitError says that a command in the guest ended with an exit code other than 0. The output is stdout and stderr.
type exitError struct {
	command, output string
	code            int
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s: exit code %d\n%s", e.command, e.code, e.output)
}

// ssh runs a script in the guest as root and returns what it printed on stdout. Its stderr is part of the error.
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

// try runs a script in the guest and returns its output, also if the script failed.
func (g guest) try(script string) (string, error) { return g.ssh(script, nil) }

// run runs a script that must succeed, and returns its output without newlines at the end.
func (g guest) run(t *testing.T, script string) string {
	t.Helper()
	out, err := g.try(script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(out, "\n")
}

// runNumber runs a script that must print one number, and returns the number.
func (g guest) runNumber(t *testing.T, script string) int {
	t.Helper()
	n, err := strconv.Atoi(g.run(t, script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return n
}

// result is the JSON object that a module prints, as Ansible reads it.
type result map[string]any

func (r result) code() string { s, _ := r["code"].(string); return s }
func (r result) msg() string  { s, _ := r["msg"].(string); return s }

// module runs a module by a command line, as an administrator would, with --json. It returns the result, also if the
// module failed. Shell text may stand before the module's name, but nothing after its arguments.
func (g guest) module(t *testing.T, commandLine string) result {
	t.Helper()
	out, err := g.try(commandLine + " --json 2>/dev/null")
	var r result
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		t.Fatalf("%s printed no result: %v\n%v\n%s", commandLine, jsonErr, err, out)
	}
	return r
}

// ok runs a module that must succeed. See module.
func (g guest) ok(t *testing.T, commandLine string) result {
	t.Helper()
	r := g.module(t, commandLine)
	if failed, _ := r["failed"].(bool); failed {
		text, _ := json.MarshalIndent(r, "", " ")
		t.Fatalf("%s failed: %s", commandLine, text)
	}
	return r
}

// fails runs a module that must fail with a code. See module.
func (g guest) fails(t *testing.T, commandLine, code string) result {
	t.Helper()
	r := g.module(t, commandLine)
	if failed, _ := r["failed"].(bool); !failed || r.code() != code {
		text, _ := json.MarshalIndent(r, "", " ")
		t.Fatalf("%s: want a failure with code %s, got: %s", commandLine, code, text)
	}
	return r
}

// eventually runs a script in the guest again and again until it succeeds, with pauses of 200 ms. It fails the test if
// that takes longer than the limit; what says in the message what did not happen.
func (g guest) eventually(t *testing.T, what, script string, limit time.Duration) {
	t.Helper()
	loop := fmt.Sprintf("end=$((SECONDS+%d)); until (%s) >/dev/null 2>&1; "+
		"do [ $SECONDS -lt $end ] || exit 9; sleep 0.2; done", int(limit.Seconds()), script)
	if _, err := g.try("bash -c " + quote(loop)); err != nil {
		// A failpoint that is still set would stop a run of a later test.
		state, _ := g.try(releaseFailpoint + "; lvs -a -o +lv_tags; dmsetup info -c; findmnt -rn | tail -20; " +
			"systemctl list-jobs --no-legend; ps axo pid,stat,wchan:25,args | grep -v ' \\[' | tail -40; " +
			"journalctl -u 'rewind-*' --no-pager | tail -30")
		t.Fatalf("%s did not come within %s: %v\n%s", what, limit, err, state)
	}
}

// quote quotes a string for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// cutPower cuts the guest's power and boots it again; how are more arguments of "lab boot".
func (g guest) cutPower(t *testing.T, how ...string) {
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
