//go:build lab

package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var passed = regexp.MustCompile(`(?m)^\s*--- PASS`)

// TestFakeIsLikeLVM runs the scenarios that the fake LVM passes against real LVM, in the guest, whose vg01 is empty.
func TestFakeIsLikeLVM(t *testing.T) {
	tortured(t)
	g := theGuest
	before := g.run(t, devices)
	program, err := os.ReadFile(filepath.Join(root, "build/lab-tests/lvmtest.test"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.ssh("cat >/root/package.test && chmod +x /root/package.test", program); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.run(t, "rm -f /root/package.test") })
	out, err := g.try("cd /root && REWIND_LAB_VG=vg01 ./package.test -test.v -test.run 'RealLVM|KernelSays' 2>&1")
	n := len(passed.FindAllString(out, -1))
	if err != nil || n == 0 || strings.Contains(out, "--- SKIP") {
		t.Fatalf("%d passed: %v\n%s", n, err, out)
	}
	g.unchanged(t, before)
	t.Logf("%d scenarios of the fake hold on real LVM", n)
}
