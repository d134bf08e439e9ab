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

// reachLimit bounds the way to a failpoint in the emulated guest.
const reachLimit = 3 * time.Minute

// armed are the words before a module's that have it stop at a named place; point is "NAME[#N] ACTION", as package
// failpoint reads it.
func armed(point string) string {
	return "mkdir -p /run/rewind; rm -f /run/rewind/failpoint.reached; echo " + quote(point) + " >/run/rewind/failpoint; "
}

const (
	atPlace = "test -e /run/rewind/failpoint.reached"
	goOn    = "rm -f /run/rewind/failpoint"
)

// call is a module at work in the guest while the test does something else.
type call struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// start starts a module with words, as by hand with --json. What an earlier failpoint said is gone by then.
func (g guest) start(t *testing.T, words string) *call {
	t.Helper()
	g.run(t, "rm -f /run/rewind/failpoint.reached /run/rewind/stopped")
	return g.launch(t, words)
}

// launch is start beside a call that stands at a failpoint.
func (g guest) launch(t *testing.T, words string) *call {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	c := &call{cmd: exec.CommandContext(ctx, "ssh", "-F", filepath.Join(root, "build/lab", g.name, "ssh_config"), "lab", words+" --json 2>/dev/null")}
	c.cmd.Stdout = &c.out
	if err := c.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.cmd.Wait() // which fails where it was waited for
		if t.Failed() {
			t.Logf("%s printed:\n%s", words, c.out.String())
		}
	})
	return c
}

// result waits for the module's end.
func (c *call) result(t *testing.T) result {
	t.Helper()
	err := c.cmd.Wait()
	var r result
	if jsonErr := json.Unmarshal(c.out.Bytes(), &r); jsonErr != nil {
		t.Fatalf("the module printed no result: %v\n%v\n%s", jsonErr, err, c.out.String())
	}
	return r
}

// drop breaks the connection, as a controller that goes away does.
func (c *call) drop(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
}

// devices are all volumes with their tags, and all device-mapper devices with their tables: what a run that undid
// everything leaves as it was.
const devices = `lvs -a --noheadings -o vg_name,lv_name,lv_attr,lv_tags | sort; dmsetup info -c --noheadings -o name,suspended,tables_loaded | sort`

// unchanged fails the test if the volumes are not what they were before.
func (g guest) unchanged(t *testing.T, before string) {
	t.Helper()
	if now := g.run(t, devices); now != before {
		t.Errorf("volumes and devices before:\n%s\nand now:\n%s", before, now)
	}
}

// counter writes one number after the other to a file on each of several file systems in turn, each synced before the
// next one is written. Of one instant, each file has the last one's number or one more, and none has less than a later
// one. It also notes the longest time, in milliseconds, that one round took.
const counter = `import os, sys, time
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

// count has the counter at work in directories of several file systems until the test ends.
func (g guest) count(t *testing.T, directories ...string) {
	t.Helper()
	all := strings.Join(directories, " ")
	g.run(t, "systemd-run -q --collect --unit=counter python3 -c "+quote(counter)+" "+all)
	t.Cleanup(func() {
		g.run(t, "systemctl stop counter; rm -f /run/counter.worst; for d in "+all+"; do rm -f $d/counter; done")
	})
	g.eventually(t, "the counter", "test -s /run/counter.worst", time.Minute)
}

// fields splits what a script printed into words.
func fields(s string) []string { return strings.Fields(s) }
