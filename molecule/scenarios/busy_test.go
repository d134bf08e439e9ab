//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// theHolders keep /dat open in every way a rollback must know of, besides PostgreSQL. The shell is the leader of a
// session with a terminal, as of somebody who is logged in.
var theHolders = unit("rw-tail.service", `
[Service]
ExecStart=/usr/bin/tail -f /dat/d/open
`) + unit("rw-space.service", `
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

// running tells when each service was started: it differs if any was stopped meanwhile.
const running = `systemctl show -p Id,ActiveState,InvocationID 'postgresql@*-main.service' pccehr rw-tail rw-space`

// TestHoldersAreNamed asks for a rollback while /dat is held open in every way, then has the units found and the
// processes ended.
func TestHoldersAreNamed(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	shell := strings.Fields(g.scratch(t, theHolders+`ls -l /proc/*/cwd | sed -n 's#.*/proc/\([0-9]*\)/cwd -> /dat$#\1#p'`, removeHolders))[0]
	before := g.run(t, running)
	calls := g.each(t,
		"lvm_merge snapshots=vg00/dat_snap services=postgresql",
		"lvm_merge snapshots=vg00/dat_snap services=auto --check",
		"lvm_merge snapshots=vg00/dat_snap services=auto holders=stop",
	)
	for _, r := range calls {
		if r.code() != "busy" || r["changed"] == true {
			t.Fatalf("want busy and nothing changed: %s", r)
		}
	}
	if after := g.run(t, running); after != before {
		t.Errorf("services were touched:\n%s\nbefore:\n%s", after, before)
	}
	someone := map[string]any{"kind": "process", "how": "cwd", "path": "/dat", "pid": shell, "command": "bash"}
	always := []map[string]any{
		someone,
		{"kind": "swap", "path": "/dat/swap"},
	}
	named := append([]map[string]any{
		{"kind": "process", "how": "fd", "path": "/dat/d/open", "command": "tail", "unit": "rw-tail.service"},
		{"kind": "mount", "path": "/dat", "unit": "rw-space.service", "command": "sleep"},
		{"kind": "mount", "how": "bind", "path": "/srv/bind"},
	}, always...)
	for _, want := range named {
		if !has(calls[0].rows("holders"), want) {
			t.Errorf("holders do not name %v: %s", want, calls[0])
		}
	}
	for i, r := range calls[1:] {
		for _, want := range always {
			if !has(r.rows("holders"), want) {
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
	g.run(t, "test -d /proc/"+shell+" && swapoff /dat/swap && kill -9 "+shell+" && rm /dat/d/open && echo new > /dat/d/new")
	// A process of no unit that could be stopped: started by a login, and left behind by it.
	stray := g.run(t, "(cd /dat/d; exec sleep 9999 >/dev/null 2>&1 </dev/null) & echo $!")
	r := g.ok(t, "lvm_merge snapshots=vg00/dat_snap services=auto holders=stop")
	g.run(t, `for u in 'postgresql@*-main.service' rw-tail rw-space; do systemctl is-active "$u" || exit; done; test "$(ls /srv/bind)" = open && findmnt -n /srv/bind`)
	g.run(t, "! test -d /proc/"+stray)
	t.Logf("a shell, an unlisted unit, a private namespace, a swap file and a bind mount were each named and nothing was "+
		"stopped; without shell and swap, services=auto and holders=stop rolled back: %s", r.msg())
}
