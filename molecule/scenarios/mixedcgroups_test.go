//go:build lab

package scenarios

import "testing"

// TestMixedControlGroups boots the server with systemd.unified_cgroup_hierarchy=0, which puts the unified hierarchy of
// control groups below /sys/fs/cgroup/unified. A run that is killed there is settled as anywhere, and a rollback works.
func TestMixedControlGroups(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12") // its systemd still knows that setup
	g := guestFor(t)
	g.run(t, "sync") // the power cut must not lose the modules that were just installed
	g.cutPower(t, "--root", "/dev/vda systemd.unified_cgroup_hierarchy=0")
	g.run(t, "test -e /sys/fs/cgroup/unified/cgroup.controllers")
	g.eventually(t, "the application", "systemctl is-active pccehr", settleLimit)
	g.run(t, "echo old >/pccehr/rw-file; sync")
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	checkInterrupted(t, g.module(t, withFailpoint("rollback.unmounted kill")+"lvm_merge services=pccehr"))
	g.eventually(t, "the way back", "systemctl is-active pccehr && grep new /pccehr/rw-file", settleLimit)
	g.ok(t, "lvm_merge services=pccehr wait=true")
	if got := g.run(t, "systemctl is-active pccehr; cat /pccehr/rw-file"); got != "active\nold" {
		t.Errorf("after the rollback: %q", got)
	}
}
