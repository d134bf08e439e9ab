//go:build lab

package scenarios

import (
	"testing"
)

// fillMemory takes more memory than is free, by so many MiB, and goes on reading and writing all of it.
const fillMemory = `import sys, random
free = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemAvailable"))
pages = bytearray(free * 1024 + int(sys.argv[1]) * 2**20)
for at in range(0, len(pages), 4096): pages[at:at + 8] = random.randbytes(8)
while True:
    at = random.randrange(len(pages)); pages[at] = (pages[at] + 1) % 256
`

const swapOnMember = `dd if=/dev/zero of=/pccehr/swap bs=1M count=256 status=none; chmod 600 /pccehr/swap
mkswap -q /pccehr/swap; swapon /pccehr/swap`

// swapping holds when 60 MiB of memory are in the swap file.
const swapping = `test $(awk '$1 == "/pccehr/swap" { print $4 }' /proc/swaps) -gt 61440 &&
systemctl -q is-active fill`

// TestSwapFileOnAMember takes sets while memory is full and its swap file lies on a member: what is held must not need
// memory to go on, which would come from there.
func TestSwapFileOnAMember(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices)
	g.scratch(t, swapOnMember, "systemctl stop fill 2>/dev/null; "+goOn+"; swapoff /pccehr/swap; rm /pccehr/swap")
	g.run(t, "systemd-run -q --collect --unit=fill -p OOMScoreAdjust=1000 python3 -c "+quote(fillMemory)+" 100")
	g.eventually(t, "memory that is full", swapping, settled)
	var longest float64
	for range 2 {
		r := g.ok(t, "lvm_snapshot volumes=/dat,/pccehr freeze_timeout=60")
		pause, _ := r["pause_ms"].(float64)
		longest = max(longest, pause)
		g.run(t, swapping)
		g.ok(t, "lvm_snapshot state=absent")
	}
	hung := g.start(t, armed("instant.held hang")+"lvm_snapshot volumes=/dat,/pccehr freeze_timeout=5")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	g.run(t, writesGoOn+"; "+goOn)
	if r := hung.result(t); r.code() != "freeze_timeout" {
		t.Errorf("held past its limit: %s", r)
	}
	g.run(t, swapping)
	g.unchanged(t, before)
	t.Logf("with the swap file of a full memory on a member, sets were taken with a pause of %.0f ms at most, and one "+
		"that hung while it was held let go at its limit", longest)
}
