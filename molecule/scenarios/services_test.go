//go:build lab

package scenarios

import (
	"strings"
	"testing"
	"time"
)

// writeUnits is a script that writes units of systemd and has systemd load them. Its arguments are the name of each
// unit followed by its text.
func writeUnits(namesAndTexts ...string) string {
	var script strings.Builder
	for i := 0; i < len(namesAndTexts); i += 2 {
		name, text := namesAndTexts[i], namesAndTexts[i+1]
		script.WriteString("cat >/etc/systemd/system/" + name + " <<'UNIT'\n" + text + "\nUNIT\n")
	}
	return script.String() + "systemctl daemon-reload\n"
}

const removeTestUnits = `systemctl stop 'rw-*' 2>/dev/null; rm -f /etc/systemd/system/rw-*; systemctl daemon-reload
systemctl reset-failed 'rw-*' 2>/dev/null
lvm_snapshot state=absent >/dev/null 2>&1; mountpoint -q /pccehr || mount /pccehr
rm -rf /pccehr/rw-*; systemctl start pccehr`

// TestAServiceThatIsStartedMeanwhileWaits starts a stopped service, as a monitoring program may, while its volume is
// not mounted. Nothing in its unit says that the service needs the mount, but its start waits for the rollback.
func TestAServiceThatIsStartedMeanwhileWaits(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, writeUnits("rw-app.service", `[Service]
ExecStart=/bin/sh -c 'mkdir -p /pccehr/rw-app; exec sleep infinity'`)+"systemctl start rw-app", removeTestUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	c := g.start(t, withFailpoint("rollback.unmounted hang")+"lvm_merge services=pccehr,rw-app")
	g.eventually(t, "the unmount", failpointReached, reachLimit)
	g.run(t, "systemctl start --no-block rw-app")
	const waits = "systemctl list-jobs --no-legend | grep -q 'rw-app.service *start *waiting'"
	g.eventually(t, "a start that waits", waits, time.Minute)
	if got := g.run(t, "systemctl is-active rw-app; ls -A /pccehr"); got != "inactive" {
		t.Errorf("while the volume is not mounted: %q", got)
	}
	g.run(t, releaseFailpoint)
	if r := c.result(t); r["failed"] == true {
		t.Fatalf("%s", r)
	}
	got := g.run(t, `systemctl is-active rw-app pccehr; test ! -e /pccehr/rw-file && echo rolled back
systemctl stop rw-app pccehr; umount /pccehr; ls -A /pccehr`)
	if got != "active\nactive\nrolled back" {
		t.Errorf("afterwards, and below the mount point: %q", got)
	}
}

// TestWhatIsBoundToAMountIsStartedAgain uses a service that is bound to the mount and has nothing open there. systemd
// stops it when the volume is unmounted, and the rollback starts it again.
func TestWhatIsBoundToAMountIsStartedAgain(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, writeUnits("rw-share.service", `[Unit]
BindsTo=pccehr.mount
After=pccehr.mount
[Service]
ExecStart=/bin/sleep infinity`)+"systemctl start rw-share", removeTestUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	r := g.ok(t, "lvm_merge services=pccehr")
	if got := g.run(t, "systemctl is-active rw-share pccehr"); got != "active\nactive" {
		t.Errorf("after the rollback: %q, %s", got, r)
	}
}

// TestALongOneshotKeepsNobodyWaiting rolls back while a nightly job, a service of Type=oneshot, is running. The
// rollback stops the job and starts it again, and does not wait for its end.
func TestALongOneshotKeepsNobodyWaiting(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, writeUnits("rw-nightly.service", `[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cd /pccehr; exec sleep infinity'`)+"systemctl start --no-block rw-nightly", removeTestUnits)
	g.eventually(t, "the start of the job",
		"systemctl is-active rw-nightly | grep -q activating && pgrep -x sleep", time.Minute)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	r := g.ok(t, "lvm_merge services=auto wait=true")
	if down, ok := r["downtime_ms"].(float64); !ok || down > 120e3 {
		t.Errorf("the services were down for %v ms", r["downtime_ms"])
	}
	if got := g.run(t, "systemctl is-active rw-nightly pccehr; true"); got != "activating\nactive" {
		t.Errorf("after the rollback: %q, %s", got, r)
	}
	g.checkTidy(t)
}

// TestServicesLeftStoppedAreStartedByTheSameLine rolls back with start_services=false, so that the service stays
// stopped. The same call without that argument starts it.
func TestServicesLeftStoppedAreStartedByTheSameLine(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "true", removeTestUnits)
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

// TestAnotherLVMCommandAtTheLastMoment holds LVM's lock of the volume group, as an administrator's command does that
// waits for an answer, when everything is unmounted. The rollback fails and is undone.
func TestAnotherLVMCommandAtTheLastMoment(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, "true", "systemctl stop rw-lock 2>/dev/null; "+removeTestUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	c := g.start(t, withFailpoint("rollback.unmounted hang")+"lvm_merge services=pccehr")
	g.eventually(t, "the unmount", failpointReached, reachLimit)
	g.run(t, "systemd-run -q --unit=rw-lock flock /run/lock/lvm/V_vg00 sh -c 'touch /run/rw-locked; exec sleep infinity'")
	g.eventually(t, "the lock", "test -e /run/rw-locked", time.Minute)
	g.run(t, releaseFailpoint)
	r := c.result(t)
	if r.code() != "locked" || r["changed"] == true {
		t.Errorf("%s", r)
	}
	got := g.run(t, `systemctl is-active pccehr; cat /pccehr/rw-file; pgrep -x lvm
rm -f /run/rw-locked; systemctl stop rw-lock`)
	if got != "active\nnew" {
		t.Errorf("after the rollback was undone: %q", got)
	}
	g.checkTidy(t)
}

// TestAPathUnitSeesNoEmptyDirectory rolls back a volume that a path unit watches. The unmount must not start what the
// path unit triggers, and the path unit must watch the mount that is made afterwards.
func TestAPathUnitSeesNoEmptyDirectory(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "mkdir -p /pccehr/rw-in; rm -f /run/rw-seen\n"+writeUnits("rw-p.path", `[Path]
PathChanged=/pccehr/rw-in`, "rw-p.service", `[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ls -A /pccehr >>/run/rw-seen'`)+"systemctl start rw-p.path",
		"rm -f /run/rw-seen; "+removeTestUnits)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	check := g.ok(t, "lvm_merge services=pccehr --check")
	if stop, _ := check["stop"].([]any); len(stop) == 0 || stop[0] != "rw-p.path" {
		t.Errorf("--check does not say that the path unit is stopped first: %v", check["stop"])
	}
	r := g.ok(t, "lvm_merge services=pccehr wait=true")
	if got := g.run(t, "systemctl is-active rw-p.path; ls /run/rw-seen 2>/dev/null; true"); got != "active" {
		t.Errorf("the path unit, and whether its service was started: %q; %s", got, r)
	}
	g.run(t, "touch /pccehr/rw-in/x")
	g.eventually(t, "the start by the path unit", "grep -qx rw-in /run/rw-seen", time.Minute)
	g.checkTidy(t)
}

// TestAJobThatOutlivesItsServiceIsAHolder uses a service like cron: a stop ends only its main process
// (KillMode=process), and a job that it has started holds the volume.
func TestAJobThatOutlivesItsServiceIsAHolder(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, writeUnits("rw-cron.service", `[Service]
KillMode=process
ExecStart=/bin/sh -c '(cd /pccehr; exec sleep 1000) & exec sleep 2000'`)+"systemctl start rw-cron",
		"pkill -f 'sleep [12]000'; "+removeTestUnits)
	g.eventually(t, "the job", "ls -l /proc/*/cwd | grep '> /pccehr$' | grep -c . && pgrep -f 'sleep 1000'", time.Minute)
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	r := g.fails(t, "lvm_merge services=auto --check", "busy")
	if !hasRow(r.rows("holders"), map[string]any{"kind": "process", "command": "sleep", "unit": "rw-cron.service"}) ||
		!strings.Contains(r["hint"].(string), "rw-cron.service") {
		t.Errorf("the job is not named: %s", r)
	}
	// Who names the unit vouches for it. What it leaves behind costs seconds, not the whole timeout.
	begun := time.Now()
	g.fails(t, "lvm_merge services=pccehr,rw-cron", "busy")
	if took := time.Since(begun); took > 3*time.Minute {
		t.Errorf("the rollback was given up after %s", took)
	}
	g.run(t, "systemctl is-active pccehr rw-cron")
	r = g.ok(t, "lvm_merge services=auto holders=stop wait=true")
	if down, ok := r["downtime_ms"].(float64); !ok || down > 120e3 {
		t.Errorf("the services were down for %v ms", r["downtime_ms"])
	}
	g.run(t, "systemctl is-active pccehr rw-cron")
	g.checkTidy(t)
}

// TestLvconvertThatWaitsForMinutes holds LVM's lock of the volume group for longer than five minutes from the moment in
// which lvconvert is started. The rollback waits for lvconvert and is made; nothing is put back meanwhile.
func TestLvconvertThatWaitsForMinutes(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "true", "systemctl stop rw-lock 2>/dev/null; rm -f /run/rw-locked; "+removeTestUnits)
	g.run(t, "echo old >/pccehr/rw-file; sync")
	g.ok(t, "lvm_snapshot volumes=/pccehr size=60m")
	g.run(t, "echo new >/pccehr/rw-file; sync")
	c := g.start(t, withFailpoint("command.lvconvert.before hang")+"lvm_merge services=pccehr wait=true")
	g.eventually(t, "lvconvert", failpointReached, reachLimit)
	g.run(t, "systemd-run -q --unit=rw-lock flock /run/lock/lvm/V_vg00 sh -c 'touch /run/rw-locked; exec sleep 320'")
	g.eventually(t, "the lock", "test -e /run/rw-locked", time.Minute)
	g.run(t, releaseFailpoint+"; sleep 310; ! systemctl is-active pccehr && ! findmnt /pccehr")
	r := c.result(t)
	if got := g.run(t, "systemctl is-active pccehr; cat /pccehr/rw-file"); r["failed"] == true || got != "active\nold" {
		t.Errorf("%q: %s", got, r)
	}
	g.checkTidy(t)
}
