//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// makeUnits writes unit files of the test's own: the name of each, and its text.
func makeUnits(units ...string) string {
	var script strings.Builder
	for i := 0; i < len(units); i += 2 {
		script.WriteString("cat >/etc/systemd/system/" + units[i] + " <<'UNIT'\n" + units[i+1] + "\nUNIT\n")
	}
	return script.String() + "systemctl daemon-reload\n"
}

const withoutUnits = `systemctl stop 'rw-*' 2>/dev/null; rm -f /etc/systemd/system/rw-*; systemctl daemon-reload
systemctl reset-failed 'rw-*' 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1; mountpoint -q /pccehr || mount /pccehr
rm -rf /pccehr/rw-*; systemctl start pccehr`

// TestAServiceThatIsStartedMeanwhileWaits has a monitoring program start a stopped service while its volume is not
// mounted. Nothing in its unit says that it needs the mount.
func TestAServiceThatIsStartedMeanwhileWaits(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, makeUnits("rw-app.service", `[Service]
ExecStart=/bin/sh -c 'mkdir -p /pccehr/rw-app; exec sleep infinity'`)+"systemctl start rw-app", withoutUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	c := g.start(t, armed("rollback.unmounted hang")+"lvm_merge services=pccehr,rw-app")
	g.eventually(t, "the unmount", atPlace, reachLimit)
	g.run(t, "systemctl start --no-block rw-app")
	const waits = "systemctl list-jobs --no-legend | grep -q 'rw-app.service *start *waiting'"
	g.eventually(t, "a start that waits", waits, time.Minute)
	if got := g.run(t, "systemctl is-active rw-app; ls -A /pccehr"); got != "inactive" {
		t.Errorf("while the volume is not mounted: %q", got)
	}
	g.run(t, goOn)
	if r := c.result(t); r["failed"] == true {
		t.Fatalf("%s", r)
	}
	got := g.run(t, `systemctl is-active rw-app pccehr; test ! -e /pccehr/rw-file && echo rolled back
systemctl stop rw-app pccehr; umount /pccehr; ls -A /pccehr`)
	if got != "active\nactive\nrolled back" {
		t.Errorf("afterwards, and below the mount point: %q", got)
	}
}

// TestWhatIsBoundToAMountIsStartedAgain has a service that systemd stops because its mount goes away, and that holds
// nothing open there.
func TestWhatIsBoundToAMountIsStartedAgain(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, makeUnits("rw-share.service", `[Unit]
BindsTo=pccehr.mount
After=pccehr.mount
[Service]
ExecStart=/bin/sleep infinity`)+"systemctl start rw-share", withoutUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	r := g.ok(t, "lvm_merge services=pccehr")
	if got := g.run(t, "systemctl is-active rw-share pccehr"); got != "active\nactive" {
		t.Errorf("after the rollback: %q, %s", got, r)
	}
}

// TestALongOneshotKeepsNobodyWaiting has a nightly job at work when the volume is rolled back.
func TestALongOneshotKeepsNobodyWaiting(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, makeUnits("rw-nightly.service", `[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cd /pccehr; exec sleep infinity'`)+"systemctl start --no-block rw-nightly", withoutUnits)
	g.eventually(t, "the job at work", "systemctl is-active rw-nightly | grep -q activating && pgrep -x sleep", time.Minute)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	r := g.ok(t, "lvm_merge services=auto wait=true")
	if down, ok := r["downtime_ms"].(float64); !ok || down > 120e3 {
		t.Errorf("the services were down for %v ms", r["downtime_ms"])
	}
	if got := g.run(t, "systemctl is-active rw-nightly pccehr; true"); got != "activating\nactive" {
		t.Errorf("after the rollback: %q, %s", got, r)
	}
	g.tidy(t)
}

// TestServicesLeftStoppedAreStartedByTheSameLine leaves them stopped for a look first.
func TestServicesLeftStoppedAreStartedByTheSameLine(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, "true", withoutUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.ok(t, "lvm_merge services=pccehr start_services=false wait=true")
	if got := g.run(t, "systemctl is-active pccehr; true"); got != "inactive" {
		t.Errorf("left stopped, it is %s", got)
	}
	r := g.ok(t, "lvm_merge services=pccehr")
	got := g.run(t, "systemctl is-active pccehr; true")
	if got != "active" || !strings.Contains(r.msg(), "started now: pccehr.service") {
		t.Errorf("%s: %s", got, r)
	}
}

// TestAnotherLVMCommandAtTheLastMoment has an administrator's command keep the group's lock, as one that waits for an
// answer does, when everything is unmounted.
func TestAnotherLVMCommandAtTheLastMoment(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, "true", "systemctl stop rw-lock 2>/dev/null; "+withoutUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	c := g.start(t, armed("rollback.unmounted hang")+"lvm_merge services=pccehr")
	g.eventually(t, "the unmount", atPlace, reachLimit)
	g.run(t, "systemd-run -q --unit=rw-lock flock /run/lock/lvm/V_vg00 sh -c 'touch /run/rw-locked; exec sleep infinity'")
	g.eventually(t, "the lock", "test -e /run/rw-locked", time.Minute)
	g.run(t, goOn)
	r := c.result(t)
	if r.code() != "locked" || r["changed"] == true {
		t.Errorf("%s", r)
	}
	got := g.run(t, "systemctl is-active pccehr; cat /pccehr/rw-file; pgrep -x lvm; rm -f /run/rw-locked; systemctl stop rw-lock")
	if got != "active\nnew" {
		t.Errorf("on the way back: %q", got)
	}
	g.tidy(t)
}
