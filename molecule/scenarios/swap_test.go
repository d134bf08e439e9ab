//go:build lab

package scenarios

import (
	"testing"
)

// fillMemory is a Python program that takes more memory than is available, by the number of MiB that is its argument,
// and goes on reading and writing all of it.
const fillMemory = `import sys, random
free = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemAvailable"))
pages = bytearray(free * 1024 + int(sys.argv[1]) * 2**20)
for at in range(0, len(pages), 4096): pages[at:at + 8] = random.randbytes(8)
while True:
    at = random.randrange(len(pages)); pages[at] = (pages[at] + 1) % 256
`

// swapOnMember makes a swap file on /pccehr.
const swapOnMember = `dd if=/dev/zero of=/pccehr/swap bs=1M count=256 status=none; chmod 600 /pccehr/swap
mkswap -q /pccehr/swap; swapon /pccehr/swap`

// isSwapping is a shell condition: fillMemory runs, and more than 60 MiB of memory are in the swap file.
const isSwapping = `test $(awk '$1 == "/pccehr/swap" { print $4 }' /proc/swaps) -gt 61440 &&
systemctl -q is-active fill`

// TestSwapFileOnAMember takes sets while memory is full and the swap file is on a member. While the members are
// suspended, the run must not need memory that would first have to be swapped out to one of them.
func TestSwapFileOnAMember(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	before := g.run(t, devices)
	g.prepare(t, swapOnMember,
		"systemctl stop fill 2>/dev/null; "+releaseFailpoint+"; swapoff /pccehr/swap; rm /pccehr/swap")
	g.run(t, "systemd-run -q --collect --unit=fill -p OOMScoreAdjust=1000 python3 -c "+quote(fillMemory)+" 100")
	g.eventually(t, "memory that is full", isSwapping, settleLimit)
	var longest float64
	for range 2 {
		r := g.ok(t, "lvm_snapshot volumes=/dat,/pccehr freeze_timeout=60")
		pause, _ := r["pause_ms"].(float64)
		longest = max(longest, pause)
		g.run(t, isSwapping)
		g.ok(t, "lvm_snapshot state=absent")
	}
	hung := g.start(t, withFailpoint("instant.held hang")+"lvm_snapshot volumes=/dat,/pccehr freeze_timeout=5")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, writesSucceed+"; "+releaseFailpoint)
	if r := hung.result(t); r.code() != "freeze_timeout" {
		t.Errorf("suspended longer than the limit: %s", r)
	}
	g.run(t, isSwapping)
	g.checkUnchanged(t, before)
	t.Logf("with full memory and the swap file on a member, sets were taken with a pause of %.0f ms at most, and a run "+
		"that hung while the origins were suspended resumed them at the limit", longest)
}
