//go:build lab

package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reachLimit is the longest time until a module in the emulated guest reaches a failpoint.
const reachLimit = 3 * time.Minute

// withFailpoint returns shell text that sets a failpoint. It is put before a module's command line. The point is
// "NAME[#N] ACTION", as package failpoint reads it.
func withFailpoint(point string) string {
	return "mkdir -p /run/rewind; rm -f /run/rewind/failpoint.reached; echo " + quote(point) +
		" >/run/rewind/failpoint; "
}

const (
	// failpointReached is a shell condition: a program has reached the failpoint.
	failpointReached = "test -e /run/rewind/failpoint.reached"
	// releaseFailpoint is shell text that removes the failpoint. A program that hangs there goes on.
	releaseFailpoint = "rm -f /run/rewind/failpoint"
)

// backgroundCall is a call of a module that is running in the guest while the test does something else.
type backgroundCall struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// start starts a module by a command line, with --json. Before that it removes the signs that an earlier test has
// reached its failpoint.
func (g guest) start(t *testing.T, commandLine string) *backgroundCall {
	t.Helper()
	g.run(t, "rm -f /run/rewind/failpoint.reached /run/rewind/stopped")
	return g.startBeside(t, commandLine)
}

// startBeside starts a module as start does, while another call hangs at a failpoint: that sign is kept.
func (g guest) startBeside(t *testing.T, commandLine string) *backgroundCall {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	config := filepath.Join(root, "build/lab", g.name, "ssh_config")
	c := &backgroundCall{cmd: exec.CommandContext(ctx, "ssh", "-F", config, "lab", commandLine+" --json 2>/dev/null")}
	c.cmd.Stdout = &c.out
	if err := c.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.cmd.Wait() // it fails if the test has already waited
		if t.Failed() {
			t.Logf("%s printed:\n%s", commandLine, c.out.String())
		}
	})
	return c
}

// result waits until the module has ended, and returns its result.
func (c *backgroundCall) result(t *testing.T) result {
	t.Helper()
	err := c.cmd.Wait()
	var r result
	if jsonErr := json.Unmarshal(c.out.Bytes(), &r); jsonErr != nil {
		t.Fatalf("the module printed no result: %v\n%v\n%s", jsonErr, err, c.out.String())
	}
	return r
}

// dropConnection kills the ssh client. To the guest it is as if the controller had gone away.
func (c *backgroundCall) dropConnection(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
}

// devices is a script that prints all volumes with their tags, and of all device-mapper devices whether they are
// suspended and which of their tables are loaded. A run that undid everything leaves all of it as it was.
const devices = `lvs -a --noheadings -o vg_name,lv_name,lv_attr,lv_tags | sort
dmsetup info -c --noheadings -o name,suspended,tables_loaded | sort`

// checkUnchanged fails the test if the script devices does not print what it printed before.
func (g guest) checkUnchanged(t *testing.T, before string) {
	t.Helper()
	if now := g.run(t, devices); now != before {
		t.Errorf("volumes and devices before:\n%s\nand now:\n%s", before, now)
	}
}

// counterProgram is a Python program that counts. It writes each number to the file "counter" in one directory after
// the other, which are on different file systems, and syncs each file before it writes the next one. So at every
// instant the numbers in the files, in the order of the directories, do not rise, and the first is at most one more
// than the last. The program also writes the longest time that one round took, in milliseconds, to /run/counter.worst.
const counterProgram = `import os, sys, time
files = [os.open(d + "/counter", os.O_RDWR | os.O_CREAT) for d in sys.argv[1:]]
n, worst, last = 0, 0, time.monotonic()
while True:
    n += 1
    for f in files:
        os.pwrite(f, b"%020d" % n, 0)
        os.fsync(f)
    now = time.monotonic()
    if now - last > worst:
        worst = now - last
        with open("/run/counter.worst", "w") as out: out.write("%d" % (worst * 1000))
    last = now
`

// startCounter starts counterProgram in directories on several file systems. It is stopped when the test ends.
func (g guest) startCounter(t *testing.T, directories ...string) {
	t.Helper()
	all := strings.Join(directories, " ")
	g.run(t, "systemd-run -q --collect --unit=counter python3 -c "+quote(counterProgram)+" "+all)
	t.Cleanup(func() {
		g.run(t, "systemctl stop counter; rm -f /run/counter.worst; for d in "+all+"; do rm -f $d/counter; done")
	})
	g.eventually(t, "the counter", "test -s /run/counter.worst", time.Minute)
}

// fields splits what a script printed into words.
func fields(s string) []string { return strings.Fields(s) }
