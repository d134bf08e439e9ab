//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// fanotifyProgram is a Python program that marks a mount with fanotify(7) and does not read the events. Each of these
// keeps a file open.
const fanotifyProgram = `
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
group = libc.fanotify_init(0, 0)
assert group >= 0 and libc.fanotify_mark(group, 0x11, ctypes.c_uint64(0x20), -100, b"/pccehr") == 0
open("/pccehr/rw-seen").close()
open("/run/rw-marked", "w").close()
signal.pause()
`

// makeUnseen keeps /pccehr busy by bound sockets and unread fanotify events, which are no open files of a process.
var makeUnseen = writeFile("/run/rw-watch.py", fanotifyProgram) + writeUnit("rw-watch.service", `
[Service]
ExecStart=/usr/bin/python3 /run/rw-watch.py
`) + writeUnit("rw-sock.service", `
[Service]
ExecStart=/usr/bin/socat UNIX-LISTEN:/pccehr/rw-app.sock,fork /dev/null
`) + writeUnit("rw-listen.socket", `
[Socket]
ListenStream=/pccehr/rw-listen.sock
`) + writeUnit("rw-listen.service", `
[Service]
ExecStart=/bin/sleep infinity
`) + `
systemctl daemon-reload
echo old > /pccehr/rw-seen
modprobe nfsd; mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
lvm_snapshot volumes=/pccehr size=100m >/dev/null
systemctl start rw-watch rw-sock rw-listen.socket
until [ -S /pccehr/rw-app.sock ] && [ -S /pccehr/rw-listen.sock ] && [ -e /run/rw-marked ]; do sleep 0.1; done
`

// exportPccehr has the kernel's NFS server export /pccehr, by the files in /proc that rpc.mountd would write.
const exportPccehr = `echo 'nfsd 192.0.2.7 2147483647 rw-client' > /proc/net/rpc/auth.unix.ip/channel
echo 'rw-client /pccehr 2147483647 1 65534 65534 7' > /proc/net/rpc/nfsd.export/channel
`

const unexportPccehr = `for f in nfsd.export auth.unix.ip; do date -d '+1 sec' +%s > /proc/net/rpc/$f/flush; done
`

const removeUnseen = unexportPccehr + `
systemctl stop rw-watch rw-sock rw-listen.socket rw-listen.service
rm -f /etc/systemd/system/rw-* /run/rw-*; systemctl daemon-reload
lvm_snapshot state=absent >/dev/null 2>&1
rm -f /pccehr/rw-*; umount /proc/fs/nfsd; systemctl is-active -q pccehr || systemctl start pccehr
`

// TestWhatNoOpenFileShowsIsNamedBeforehand calls for a rollback while sockets, fanotify events and the kernel's NFS
// server keep /pccehr busy. All are named before anything is stopped.
func TestWhatNoOpenFileShowsIsNamedBeforehand(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeUnseen+exportPccehr+"cat /proc/fs/nfsd/exports", removeUnseen)
	const started = "systemctl show -p InvocationID pccehr rw-watch rw-sock rw-listen.socket"
	before := g.run(t, started)
	r := g.fails(t, "lvm_merge services=pccehr --check", "busy")
	for _, want := range []map[string]any{
		{"how": "socket", "path": "/pccehr/rw-app.sock", "command": "socat", "unit": "rw-sock.service"},
		{"how": "socket", "path": "/pccehr/rw-listen.sock", "command": "systemd", "unit": "rw-listen.socket"},
		{"how": "fanotify", "path": "/pccehr", "unit": "rw-watch.service"},
		{"kind": "export", "how": "nfs", "path": "/pccehr"},
	} {
		if !hasRow(r.rows("holders"), want) {
			t.Errorf("holders do not name %v: %s", want, r)
		}
	}
	if !strings.Contains(r.hint(), "exportfs -u") {
		t.Errorf("the hint does not say how the NFS export is ended: %s", r.hint())
	}
	if after := g.run(t, started); after != before {
		t.Errorf("services were touched:\n%s\nbefore:\n%s", after, before)
	}
	g.run(t, unexportPccehr+"echo new > /pccehr/rw-seen")
	r = g.ok(t, "lvm_merge services=pccehr,auto wait=true")
	got := g.run(t, "systemctl is-active pccehr rw-watch rw-sock rw-listen.socket | xargs; cat /pccehr/rw-seen")
	if want := "active active active active\nold"; got != want {
		t.Errorf("after the rollback: %q, want %q", got, want)
	}
	t.Logf("a bound socket, a socket unit, unread fanotify events and an NFS export were named before anything was "+
		"stopped; without the export services=auto stopped and started their units: %s", r.msg())
}

// TestMountsComeBackAsTheyWereAskedFor rolls back a file system that is mounted below a shared bind mount and that ext4
// has made read-only after an error. It is mounted again with the options with which it was mounted at first.
func TestMountsComeBackAsTheyWereAskedFor(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, `
lvcreate -qqy -L 64M -n data vg01; mkfs.ext4 -q /dev/vg01/data; mkdir -p /srv/data /export /srv/view
mount --bind /srv /export
mount -o nosuid,nodev,errors=remount-ro /dev/vg01/data /srv/data
mount --bind -o ro,noexec /srv/data /srv/view
echo old > /srv/data/file; sync
lvm_snapshot volumes=/srv/data size=20m >/dev/null
echo new > /srv/data/file; sync
`, `
lvm_snapshot state=unmounted >/dev/null 2>&1; lvm_snapshot state=absent >/dev/null 2>&1
for i in 1 2 3; do umount /srv/snap /srv/view /srv/data /export/data /export/view; done 2>/dev/null; umount /export
lvremove -qqy vg01/data; rmdir /srv/data /export /srv/view /srv/snap
! lvs --noheadings vg01 | grep .
`)
	r := g.ok(t, "lvm_snapshot state=mounted mountpoint=/srv/snap")
	const options = `findmnt -no OPTIONS -S /dev/mapper/vg01-data_snap | tr , '\n'`
	if got := g.run(t, options+" | grep -xE 'ro|nosuid|nodev|noexec' | sort -u | xargs"); got != "nodev nosuid ro" {
		t.Errorf("the snapshot is mounted %q: %s", got, r.msg())
	}
	g.run(t, "mountpoint /export/snap") // the unmount below must unmount this one, too
	g.ok(t, "lvm_snapshot state=unmounted")
	g.run(t, "! mountpoint -q /srv/snap && ! mountpoint -q /export/snap")
	table := g.run(t, "findmnt -rno TARGET,OPTIONS -S /dev/mapper/vg01-data | sort")
	g.run(t, `echo 1 > /sys/fs/ext4/$(basename $(readlink -f /dev/vg01/data))/trigger_fs_error
! touch /srv/data/x 2>/dev/null`)
	r = g.ok(t, "lvm_merge wait=true")
	if got := g.run(t, "findmnt -rno TARGET,OPTIONS -S /dev/mapper/vg01-data | sort"); got != table {
		t.Errorf("mounted after the rollback:\n%s\nbefore:\n%s", got, table)
	}
	g.run(t, "test $(cat /export/data/file) = old && touch /srv/data/x && ! touch /srv/view/x 2>/dev/null")
	t.Logf("a file system below a shared bind mount was unmounted once and is mounted as before, for writing although "+
		"ext4 had made it read-only; its read-only view is read-only; its snapshot was nosuid and nodev: %s", r.msg())
}
