//go:build lab

package scenarios

import "testing"

// A file system with ext4's own quotas, mounted without a quota option, so that its mount enforces none. quotaon is a
// small one where the real one is not installed: for user and group quotas it makes the same call to the kernel
// (Q_QUOTAON), and "quotaon state DEVICE" prints the flags of Q_XGETQSTAT.
const (
	makeQuotas = `
[ -e /usr/sbin/quotaon ] && mv /usr/sbin/quotaon /root/quotaon.before
cat >/usr/sbin/quotaon <<'EOF'
#!/usr/bin/python3
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
answer = ctypes.create_string_buffer(256)
def call(command, kind, device):
    if libc.quotactl(ctypes.c_uint(command << 8 | kind), device.encode(), 4, answer) != 0:
        sys.exit("quotactl: " + os.strerror(ctypes.get_errno()))
if sys.argv[1] == "state":
    call(0x5805, 0, sys.argv[2])
    print(int.from_bytes(answer.raw[2:4], "little"))
    sys.exit()
device = subprocess.check_output(["findmnt", "-no", "SOURCE", sys.argv[-1]], text=True).strip()
for kind, option in enumerate(["-u", "-g"]):
    if option in sys.argv:
        call(0x800002, kind, device)
EOF
chmod 755 /usr/sbin/quotaon
lvcreate -qqy -L 64M -n quotas vg00; mkfs.ext4 -q -O quota /dev/vg00/quotas
mkdir -p /srv/quotas; mount /dev/vg00/quotas /srv/quotas; echo old >/srv/quotas/file; quotaon -u /srv/quotas; sync
`
	removeQuotas = `
lvm_snapshot name=quotas state=absent >/dev/null 2>&1
umount /srv/quotas; lvremove -qqy vg00/quotas; rmdir /srv/quotas; rm -f /usr/sbin/quotaon
[ -e /root/quotaon.before ] && mv /root/quotaon.before /usr/sbin/quotaon; true
`
	quotaState = "quotaon state /dev/mapper/vg00-quotas"
)

// TestQuotasStayOn rolls back a file system whose user quotas quotaon(8) has switched on, and not the mount. They are
// on afterwards, and the group quotas are not.
func TestQuotasStayOn(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeQuotas, removeQuotas)
	before := g.run(t, quotaState)
	g.ok(t, "lvm_snapshot name=quotas volumes=/srv/quotas size=32m")
	g.run(t, "echo new >/srv/quotas/file; sync")
	g.ok(t, "lvm_merge name=quotas wait=true")
	if got := g.run(t, "cat /srv/quotas/file; "+quotaState); got != "old\n"+before {
		t.Errorf("after the rollback: %q; the state of the quotas was %s", got, before)
	}
	g.run(t, "umount /srv/quotas; mount /dev/vg00/quotas /srv/quotas")
	if plain := g.run(t, quotaState); plain == before {
		t.Errorf("the mount alone switches the quotas on (%s), so that this test proves nothing", plain)
	}
}
