//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// badInput are calls that must be refused, each with its code and a text that its message must have.
var badInput = []struct{ call, code, says string }{
	{"lvm_snapshot volumes=/dat colour=red", "bad_arguments", "colour"},
	{"lvm_snapshot volumes=/dat state=presnt", "bad_arguments", "present"},
	{"lvm_snapshot volumes=", "not_found", "volumes names nothing"},
	{`lvm_snapshot 'volumes=[""]'`, "bad_arguments", "empty volume"},
	{"lvm_snapshot volumes=/dat size=0", "bad_arguments", "size"},
	{"lvm_snapshot volumes=/dat size=120%FREE", "bad_arguments", "120"},
	{"lvm_snapshot volumes=/dat name=a/b", "bad_arguments", "a/b"},
	{"lvm_snapshot volumes=/dat name=-x", "bad_arguments", "-x"},
	{"lvm_snapshot volumes=/dat name=$'a\\nb'", "bad_arguments", `a\nb`},
	{"lvm_snapshot volumes=vg00/nothing", "not_found", "vg00/nothing"},
	{"lvm_snapshot volumes=nogroup/dat", "not_found", "nogroup"},
	{"lvm_snapshot volumes=/nowhere", "not_found", "/nowhere"},
	{"lvm_snapshot volumes=/dat,/dat/postgresql", "bad_arguments", "/dat/postgresql"},
	{"lvm_snapshot volumes=/dat,vg00/dat", "bad_arguments", "same volume"},
	{"lvm_snapshot volumes=/boot", "unsupported", "not a logical volume"},
	{"lvm_snapshot volumes=/run", "unsupported", "no block device"},
	{"lvm_snapshot volumes=/srv/btrfs", "unsupported", "btrfs"},
	{"lvm_snapshot volumes=vg01/btrfs", "unsupported", "btrfs"},
	{"lvm_snapshot volumes=vg00/mirror", "unsupported", "raid"},
	{inContainer("lvm_snapshot volumes=/dat"), "unsupported", "container"},
	{inContainer("lvm_merge"), "unsupported", "container"},
	{"lvm_merge name=never", "not_found", "never"},
	{"lvm_merge snapshots=vg00/dat", "bad_arguments", "no snapshot"},
	{"lvm_merge snapshots=vg00/never", "not_found", "vg00/never"},
	{"lvm_merge name=a snapshots=vg00/b timeout=0 holders=maybe", "bad_arguments", "maybe"},
}

// inContainer returns a command line that runs a module where systemd says that this is a container
// (systemd-detect-virt(1)).
func inContainer(call string) string {
	const pretend = "mount -t tmpfs none /run/systemd; echo lxc > /run/systemd/container; "
	return "unshare --mount --propagation private sh -c '" + pretend + `exec "$@"` + "' sh " + call
}

// TestBadInputChangesNothing makes the calls of badInput, and one with several wrong arguments, which are all named.
func TestBadInputChangesNothing(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, `
truncate -s 16M /root/boot.img; mkfs.ext4 -q /root/boot.img; mount -o loop /root/boot.img /boot
lvcreate -qqy -L 128M -n btrfs vg01; mkfs.btrfs -q /dev/vg01/btrfs
mkdir -p /srv/btrfs; mount /dev/vg01/btrfs /srv/btrfs
lvcreate -qqy -L 16M --type raid1 -m 1 -n mirror vg00
`, `
umount /boot; umount /srv/btrfs; rm -f /root/boot.img
lvremove -qqy vg01/btrfs vg00/mirror 2>/dev/null; true`)
	before := g.run(t, showState)
	var calls []string
	for _, bad := range badInput {
		calls = append(calls, bad.call)
	}
	all := "lvm_snapshot volumes=/dat colour=red state=presnt size=0 name=a/b freeze_timeout=0"
	results := g.callEach(t, append(calls, all)...)
	for i, bad := range badInput {
		r := results[i]
		if !r.failed() || r.code() != bad.code || !strings.Contains(r.msg(), bad.says) {
			t.Errorf("%s: want %s with %q, got %s: %s", bad.call, bad.code, bad.says, r.code(), r.msg())
		}
		if r.hint() == "" && r.code() != "bad_arguments" {
			t.Errorf("%s: no hint: %s", bad.call, r)
		}
	}
	var named []string
	for _, row := range results[len(badInput)].rows("arguments") {
		named = append(named, fmt.Sprint(row["name"]))
	}
	for _, name := range []string{"colour", "state", "size", "name", "freeze_timeout"} {
		if !strings.Contains(strings.Join(named, " "), name) {
			t.Errorf("%s is not among the wrong arguments: %v", name, named)
		}
	}
	if after := g.run(t, showState); after != before {
		t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
	}
	t.Logf("%d wrong calls were refused with their codes; LVM's metadata, mounts and units are unchanged; "+
		"named in one call: %v", len(badInput), named)
}
