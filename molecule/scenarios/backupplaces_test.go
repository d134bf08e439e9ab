//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// makeFAT makes a file system as on a USB stick, which has neither owners nor links: 1 MiB of FAT12. Only its boot
// sector and the first entries of its table are not zero.
const makeFAT = `mkdir -p /srv/fat && truncate -s 1M /srv/fat.img &&
printf '\353\074\220MSDOS5.0\000\002\001\001\000\001\160\000\000\010\370\007\000\040\000\100\000\000\000\000\000' |
dd of=/srv/fat.img conv=notrunc status=none &&
printf '\200\000\051\001\002\003\004REWIND     FAT12   ' | dd of=/srv/fat.img bs=1 seek=36 conv=notrunc status=none &&
printf '\125\252\370\377\377' | dd of=/srv/fat.img bs=1 seek=510 conv=notrunc status=none &&
mount -t vfat -o loop /srv/fat.img /srv/fat`

// makeCaseless makes a directory in which names that differ only in upper and lower case are the same.
const makeCaseless = `mkdir -p /srv/caseless && truncate -s 32M /srv/caseless.img &&
mkfs.ext4 -q -O casefold /srv/caseless.img && mount -o loop /srv/caseless.img /srv/caseless &&
mkdir /srv/caseless/place && chattr +F /srv/caseless/place`

// TestPlacesThatCannotServe backs up to a place on a file system that cannot store a tree, and restores from one that
// has only the backups of another host. Both are refused before anything is done.
func TestPlacesThatCannotServe(t *testing.T) {
	tortured(t)
	onlyOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeFAT+"; "+makeCaseless+"; mkdir -p /srv/mirror", forgetBackups+
		"umount /srv/fat /srv/caseless; rm -rf /srv/fat /srv/fat.img /srv/caseless /srv/caseless.img /srv/mirror")
	for _, words := range []string{
		"snap_backup volumes=/pccehr backend_options=path=/srv/fat --check",
		"snap_backup volumes=/pccehr backend_options=path=/srv/fat",
		"snap_backup volumes=/pccehr backend=rsync backend_options=path=/srv/fat",
		"snap_backup action=check backend_options=path=/srv/fat",
	} {
		r := g.fails(t, words, "unsupported")
		if !strings.Contains(r.msg(), "/srv/fat (vfat) cannot hold owners, permissions, symbolic links, hard links") {
			t.Errorf("%s: %s", words, r.msg())
		}
		if r.ran("lvcreate") {
			t.Errorf("%s took the set first: %s", words, r)
		}
		t.Logf("%s", r.msg())
	}
	r := g.fails(t, "snap_backup volumes=/pccehr backend_options=path=/srv/caseless/place", "unsupported")
	if !strings.Contains(r.msg(), "cannot hold names that differ only in upper and lower case") {
		t.Errorf("a place without upper and lower case: %s", r.msg())
	}
	if left := g.run(t, "ls -A /srv/fat /srv/caseless/place | grep -v :; true"); left != "" {
		t.Errorf("left on them: %s", left)
	}

	g.ok(t, "snap_backup volumes=/pccehr host=db1 backend_options=path=/srv/mirror")
	for _, words := range []string{"action=check", "action=restore --check", "action=restore"} {
		r := g.fails(t, "snap_backup backend_options=path=/srv/mirror "+words, "not_found")
		if hint, _ := r["hint"].(string); !strings.Contains(r.msg(), "are of db1") || !strings.Contains(hint, "host=db1") {
			t.Errorf("%s: %v", words, r)
		}
	}
	g.ok(t, "snap_backup action=restore --check host=db1 backend_options=path=/srv/mirror")
	g.checkNothingLeft(t)
}
