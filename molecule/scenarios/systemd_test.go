//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeAllUnits makes units of all kinds that a rollback must handle. Nearly all work on /pccehr or /srv/auto, so that a
// unit that is left running, or is started too early, keeps a volume open.
var makeAllUnits = writeUnit("rw-base.service", `
[Service]
WorkingDirectory=/pccehr
ExecStart=/bin/sleep infinity
ExecStopPost=/bin/sh -c 'socat -u /dev/null UNIX-CONNECT:/run/rw-web.sock; echo $? > /run/rw-knock'
`) + writeUnit("rw-needs.service", `
[Unit]
Requires=rw-base.service
After=rw-base.service
[Service]
WorkingDirectory=/pccehr
ExecStart=/bin/sleep infinity
`) + writeUnit("rw-idle.service", `
[Unit]
PartOf=rw-base.service
[Service]
ExecStart=/bin/sleep infinity
`) + writeUnit("rw-web.socket", `
[Socket]
ListenStream=/run/rw-web.sock
`) + writeUnit("rw-web.service", `
[Service]
WorkingDirectory=/pccehr
ExecStart=/bin/sleep infinity
`) + writeUnit("rw-tick.timer", `
[Timer]
OnCalendar=*:*:0/5
AccuracySec=1
`) + writeUnit("rw-tick.service", `
[Service]
Type=oneshot
WorkingDirectory=/pccehr
ExecStart=/bin/touch /pccehr/tick.log
`) + writeUnit("rw-deaf.service", `
[Service]
WorkingDirectory=/pccehr
ExecStart=/bin/bash -c 'trap "" TERM; while :; do sleep 1; done'
TimeoutStopSec=5
`) + writeUnit("rw-once.service", `
[Service]
WorkingDirectory=/pccehr
ExecStartPre=/usr/bin/test ! -e /run/rw-once
ExecStart=/bin/sleep infinity
ExecStartPost=/usr/bin/touch /run/rw-once
`) + writeUnit("srv-auto.automount", `
[Automount]
Where=/srv/auto
`) + writeUnit("srv-auto.mount", `
[Mount]
What=/dev/vg01/auto
Where=/srv/auto
Type=ext4
`)

const removeAllUnits = `
systemctl stop 'rw-*' srv-auto.automount srv-auto.mount 2>/dev/null
rm -f /etc/systemd/system/rw-* /etc/systemd/system/srv-auto.* /run/rw-*
systemctl daemon-reload; systemctl reset-failed 'rw-*' 2>/dev/null
`

// TestServicesComeBackAsTheyWere rolls back with units of all kinds at once, of which one does not start again.
func TestServicesComeBackAsTheyWere(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeAllUnits+`
lvcreate -qqy -L 64M -n auto vg01; mkfs.ext4 -q /dev/vg01/auto; mkdir -p /srv/auto
systemctl daemon-reload
systemctl start rw-base rw-needs rw-web.socket rw-tick.timer rw-deaf rw-once srv-auto.automount
echo old > /srv/auto/file; echo old > /pccehr/rw-file; sync
socat -u /dev/null UNIX-CONNECT:/run/rw-web.sock
until systemctl -q is-active rw-web.service; do sleep 0.1; done
`, removeAllUnits+`
lvm_snapshot state=absent >/dev/null 2>&1
umount /srv/auto 2>/dev/null; lvremove -qqy vg01/auto; rm -f /pccehr/rw-file
systemctl is-active -q pccehr 'postgresql@*-main.service' || systemctl start pccehr postgresql
! lvs --noheadings vg01 | grep .
`)
	before := g.run(t, patients)
	g.ok(t, "lvm_snapshot volumes=/dat,/pccehr,/srv/auto size=200m")
	g.run(t, `psql -d dat -qc "delete from patient where id % 3 = 0"
echo new > /srv/auto/file; echo new > /pccehr/rw-file; sync`)
	const merge = "lvm_merge services=postgresql,pccehr,rw-base,rw-web,rw-tick,rw-deaf,rw-once wait=true"
	r := g.fails(t, merge, "service_failed")
	if !strings.Contains(r.msg(), "rw-once.service") || !strings.Contains(r.msg(), "rolled back") || r["changed"] != true {
		t.Errorf("the result does not say that only rw-once failed: %s", r)
	}
	if failed := r.rows("failed_services"); len(failed) != 1 || failed[0]["unit"] != "rw-once.service" {
		t.Errorf("failed units: %v", r["failed_services"])
	}
	// Had the timer's service run while /pccehr was not mounted, its file would lie below the mount point.
	below := g.run(t, `mkdir -p /run/below && mount --bind / /run/below && ls /run/below/pccehr
umount /run/below; rmdir /run/below`)
	if below != "" {
		t.Errorf("written below /pccehr while it was not mounted: %s", below)
	}
	got := g.run(t, `cat /srv/auto/file /pccehr/rw-file | tr '\n' ' '
systemctl is-active 'postgresql@*-main.service' | tr '\n' ' '
systemctl is-active pccehr rw-base rw-needs rw-web.socket rw-web.service rw-tick.timer rw-deaf srv-auto.automount \
rw-once rw-idle | tr '\n' ' '
cat /run/rw-knock`)
	if want := "old old active active active active active active active active active failed inactive 1"; got != want {
		t.Errorf("after the rollback: %s, want %s", got, want)
	}
	if got := g.run(t, patients); got != before {
		t.Errorf("%s patients after the rollback, %s before", got, before)
	}
	again := g.fails(t, merge, "service_failed")
	if !strings.Contains(again.msg(), "rw-once.service") || again["changed"] == true {
		t.Errorf("the same call while rw-once is down: %s", again)
	}
	g.run(t, "rm /run/rw-once")
	for i, again := range g.callEach(t, merge+" --check", merge, merge) {
		if again.failed() || again["changed"] != (i < 2) || i < 2 && !strings.Contains(again.msg(), "rw-once.service") {
			t.Errorf("the same call, number %d since rw-once can start: %s", i, again)
		}
	}
	g.run(t, "systemctl is-active rw-once")
	t.Logf("a unit that Requires= another, a socket's and a timer's service, an automount, a service that ignores "+
		"SIGTERM, and Debian's postgresql are as they were; a connection to the socket started no service meanwhile; "+
		"the unit that failed is named: %s", r.msg())
}
