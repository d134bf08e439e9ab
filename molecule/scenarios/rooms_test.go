//go:build lab

package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// passedTest matches the line that a test binary prints for a test that has passed.
var passedTest = regexp.MustCompile(`(?m)^\s*--- PASS`)

// TestRoomsOnRealKernels runs those tests of single packages in the guest that need a real LVM, kernel or systemd.
// Among them are the scenarios of the fake LVM (lvmtest), which real LVM must pass, too. The guest's vg01 is empty.
func TestRoomsOnRealKernels(t *testing.T) {
	tortured(t)
	const lvmtest = "REWIND_LAB_VG=vg01 ./package.test -test.v -test.run "
	// Those of lvmtest are played in two calls, since a busy guest needs minutes for half of them.
	for name, call := range map[string]string{
		"lvmtest a-i": lvmtest + "'RealLVM/^[a-i]'",
		"lvmtest j-z": lvmtest + "'RealLVM/^[^a-i]|KernelSays'",
		"filesystem":  "systemctl stop pccehr && REWIND_LAB_MOUNT=/pccehr ./package.test -test.v -test.run Lab",
		"service":     "REWIND_LAB_MOUNT=/dat ./package.test -test.v -test.run Lab",
	} {
		t.Run(name, func(t *testing.T) {
			g := guestFor(t)
			before := g.run(t, devices)
			room, _, _ := strings.Cut(name, " ")
			program, err := os.ReadFile(filepath.Join(root, "build/lab-tests", room+".test"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.ssh("cat >/root/package.test && chmod +x /root/package.test", program); err != nil {
				t.Fatal(err)
			}
			out, err := g.try("cd /root && " + call + " 2>&1")
			g.run(t, "rm -f /root/package.test; mount -a && systemctl start pccehr postgresql")
			n := len(passedTest.FindAllString(out, -1))
			if err != nil || n == 0 || strings.Contains(out, "--- SKIP") {
				t.Fatalf("%d passed: %v\n%s", n, err, out)
			}
			g.checkUnchanged(t, before)
			t.Logf("%s: %d tests passed", name, n)
		})
	}
}
