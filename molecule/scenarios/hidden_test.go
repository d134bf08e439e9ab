//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// TestWhatIsWrittenBelowAMountPointIsNamed makes a directory at the mount point while the volume is not mounted, as a
// timer or an upload may. The rollback says what the mount hides now.
func TestWhatIsWrittenBelowAMountPointIsNamed(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, "true", "umount /pccehr; rm -rf /pccehr/rw-*; "+removeTestUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	c := g.start(t, withFailpoint("rollback.unmounted hang")+"lvm_merge services=pccehr")
	g.eventually(t, "the unmount", failpointReached, reachLimit)
	g.run(t, "mkdir -p /pccehr/rw-x; echo lost >/pccehr/rw-x/file; "+releaseFailpoint)
	r := c.result(t)
	if r["failed"] == true {
		t.Fatalf("%s", r)
	}
	warnings, _ := r["warnings"].([]any)
	named := false
	for _, w := range warnings {
		text, _ := w.(string)
		named = named || strings.Contains(text, "rw-x") && strings.Contains(text, "mount --bind / /mnt")
	}
	if !named {
		t.Errorf("what was written below the mount point is not named: %v", warnings)
	}
	got := g.run(t, `test ! -e /pccehr/rw-x && mount --bind / /mnt && cat /mnt/pccehr/rw-x/file
umount /mnt; systemctl stop pccehr`)
	if got != "lost" {
		t.Errorf("by the way that the warning says: %q", got)
	}
}
