//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeHolders keeps /dat open in every way that a rollback must find, besides PostgreSQL. The shell is the leader of a
// session with a terminal, like the shell of somebody who is logged in.
var makeHolders = writeUnit("rw-tail.service", `
[Service]
ExecStart=/usr/bin/tail -f /dat/d/open
`) + writeUnit("rw-space.service", `
[Service]
ExecStart=/usr/bin/unshare --mount --propagation private /bin/sleep infinity
`) + `
systemctl daemon-reload
mkdir -p /dat/d /srv/bind; echo x > /dat/d/open; mount --bind /dat/d /srv/bind
dd if=/dev/zero of=/dat/swap bs=1M count=16 status=none; chmod 600 /dat/swap; mkswap -q /dat/swap
lvcreate -qqy -L 300M -s -n dat_snap vg00/dat 2>/dev/null
swapon /dat/swap
systemctl start rw-tail rw-space
(sleep infinity | setsid script -qc 'cd /dat && exec bash --norc' /dev/null) >/dev/null 2>&1 </dev/null &
until ls -l /proc/*/cwd 2>/dev/null | grep -q '> /dat$'; do sleep 0.1; done
`

const removeHolders = `
for p in $(ls -l /proc/*/cwd | sed -n 's#.*/proc/\([0-9]*\)/cwd -> /dat$#\1#p'); do kill -9 $p; done
for p in $(pgrep -x sleep); do grep -q session /proc/$p/cgroup && kill $p; done
swapoff /dat/swap 2>/dev/null; umount /srv/bind 2>/dev/null
systemctl stop rw-tail rw-space
rm -rf /etc/systemd/system/rw-* /dat/swap /dat/d; systemctl daemon-reload
lvremove -qqy vg00/dat_snap 2>/dev/null
systemctl -q is-active 'postgresql@*-main.service' || systemctl start postgresql
`

// serviceStarts is a script that prints the state of each service and an ID that changes when the service is stopped
// and started.
const serviceStarts = `systemctl show -p Id,ActiveState,InvocationID \
'postgresql@*-main.service' pccehr rw-tail rw-space`

// TestHoldersAreNamed calls for a rollback while /dat is held open in every way, and then lets Rewind find and stop the
// units (services=auto) and end the other processes (holders=stop).
func TestHoldersAreNamed(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	const findShell = `ls -l /proc/*/cwd | sed -n 's#.*/proc/\([0-9]*\)/cwd -> /dat$#\1#p'`
	shell := strings.Fields(g.prepare(t, makeHolders+findShell, removeHolders))[0]
	before := g.run(t, serviceStarts)
	calls := g.callEach(t,
		"lvm_merge snapshots=vg00/dat_snap services=postgresql",
		"lvm_merge snapshots=vg00/dat_snap services=auto --check",
		"lvm_merge snapshots=vg00/dat_snap services=auto holders=stop",
	)
	for _, r := range calls {
		if r.code() != "busy" || r["changed"] == true {
			t.Fatalf("want busy and nothing changed: %s", r)
		}
	}
	if after := g.run(t, serviceStarts); after != before {
		t.Errorf("services were touched:\n%s\nbefore:\n%s", after, before)
	}
	// No call of a module may end the shell or switch off the swap file, so that these are named each time.
	always := []map[string]any{
		{"kind": "process", "how": "cwd", "path": "/dat", "pid": shell, "command": "bash"},
		{"kind": "swap", "path": "/dat/swap"},
	}
	named := append([]map[string]any{
		{"kind": "process", "how": "fd", "path": "/dat/d/open", "command": "tail", "unit": "rw-tail.service"},
		{"kind": "mount", "path": "/dat", "unit": "rw-space.service", "command": "sleep"},
		{"kind": "mount", "how": "bind", "path": "/srv/bind"},
	}, always...)
	for _, want := range named {
		if !hasRow(calls[0].rows("holders"), want) {
			t.Errorf("holders do not name %v: %s", want, calls[0])
		}
	}
	for i, r := range calls[1:] {
		for _, want := range always {
			if !hasRow(r.rows("holders"), want) {
				t.Errorf("call %d: holders do not name %v: %s", i+1, want, r)
			}
		}
		for _, holder := range r.rows("holders") {
			unit, _ := holder["unit"].(string)
			if strings.HasPrefix(unit, "rw-") || strings.HasPrefix(unit, "postgresql@") {
				t.Errorf("call %d: services=auto did not find %s: %s", i+1, unit, r)
			}
		}
	}
	g.run(t, "test -d /proc/"+shell+" && swapoff /dat/swap && kill -9 "+shell+" && "+
		"rm /dat/d/open && echo new > /dat/d/new")
	// A process that belongs to no unit that could be stopped: a login has started it and left it behind.
	stray := g.run(t, "(cd /dat/d; exec sleep 9999 >/dev/null 2>&1 </dev/null) & echo $!")
	r := g.ok(t, "lvm_merge snapshots=vg00/dat_snap services=auto holders=stop")
	g.run(t, `for u in 'postgresql@*-main.service' rw-tail rw-space; do systemctl is-active "$u" || exit; done
test "$(ls /srv/bind)" = open && findmnt -n /srv/bind`)
	g.run(t, "! test -d /proc/"+stray)
	t.Logf("a shell, a unit that was not in services=, a private namespace, a swap file and a bind mount were each named "+
		"and nothing was stopped; without shell and swap, services=auto and holders=stop rolled back: %s", r.msg())
}
