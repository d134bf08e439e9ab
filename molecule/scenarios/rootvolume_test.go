//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// rootSets is how many sets with the root volume are taken under the counter.
const rootSets = 3

// moveRoot copies the running system to a volume on the third disk, of which the next boot is told. layout makes it.
func (g guest) moveRoot(t *testing.T, layout string) {
	t.Helper()
	g.run(t, "sync") // the modules were just installed
	g.cut(t, "--root", "/dev/vda")
	g.run(t, "set -e\npvcreate -qqy /dev/vdc; vgcreate -qq vg02 /dev/vdc; "+layout+`
mkfs.ext4 -q /dev/vg02/root; mount /dev/vg02/root /mnt; cp -ax /. /mnt
sed -i 's#^/dev/vda #/dev/mapper/vg02-root #' /mnt/etc/fstab; umount /mnt`)
	g.cut(t, "--root", "/dev/mapper/vg02-root")
	if on := g.run(t, "findmnt -no SOURCE /"); on != "/dev/mapper/vg02-root" {
		t.Fatalf("the root file system is %s", on)
	}
}

// killWhileRootIsHeld kills a run while the root file system, with its own program and LVM's files, is suspended.
func (g guest) killWhileRootIsHeld(t *testing.T, take string) {
	t.Helper()
	before := g.run(t, devices)
	r := g.fails(t, armed("instant.held kill")+take, "interrupted")
	g.run(t, "for d in /root /dat /pccehr; do timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none "+
		"|| exit 1; rm -f $d/probe; done")
	g.unchanged(t, before)
	t.Logf("killed while / was suspended: %s; writes went on", r.msg())
}

// TestRootVolume rolls the root file system back with the data, at the next boot: it can never be unmounted before. With
// it Rewind's journal goes back, which then knows of no rollback.
func TestRootVolume(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	t.Cleanup(func() {
		if err := g.fresh(); err != nil {
			t.Error(err)
		}
	})
	for _, root := range []struct{ name, layout, take string }{
		{"thick", "lvcreate -qqy -L 2G -n root vg02", "lvm_snapshot volumes=/,/dat,/pccehr size=400m"},
		{"thin", "lvcreate -qqy -T -L 3G -V 2G -n root vg02/pool", "lvm_snapshot volumes=/,/dat,/pccehr size=400m"},
	} {
		t.Run(root.name, func(t *testing.T) {
			if err := g.fresh(); err != nil {
				t.Fatal(err)
			}
			g.moveRoot(t, root.layout)
			const markers = "/root/marker /dat/marker /pccehr/marker"
			if root.name == "thick" {
				g.killWhileRootIsHeld(t, root.take)
				t.Run("one instant", func(t *testing.T) {
					g.takeSets(t, rootSets, "size=400m", counted{lv: "vg02/root", point: "/", below: "root"},
						counted{lv: "vg00/dat", point: "/dat"}, counted{lv: "vg00/pccehr", point: "/pccehr"})
				})
			}
			g.run(t, "echo kept | tee "+markers+"; sync")
			g.ok(t, root.take)
			g.run(t, "echo lost | tee "+markers+"; dd if=/dev/urandom of=/root/bulk bs=1M count=200 conv=fsync status=none; sync")
			const merge = rollBoth + " when_busy=defer"
			const want = "kept kept kept"
			const came = `test "$(echo $(cat ` + markers + `))" = "` + want + `" && ! test -e /root/bulk && ` + active
			if root.name == "thick" {
				// The power fails when all are deferred but the root volume, which holds the journal: the server boots twice.
				c := g.start(t, armed("rollback.deferred.others hang")+merge)
				g.eventually(t, "the failpoint", atPlace, reachLimit)
				c.drop(t)
				g.cut(t)
				g.eventually(t, "after a power cut between the deferred merges, the data of the set", came, settled)
				g.ok(t, merge+" wait=true")
				g.tidy(t)
				g.ok(t, root.take)
				g.run(t, "echo lost | tee "+markers+"; sync")
			}
			deferred := g.ok(t, merge)
			if deferred["state"] != "deferred" {
				t.Errorf("want deferred: %s", deferred)
			}
			g.run(t, "sync")
			g.cut(t)
			g.eventually(t, "the data of the set and running services", came, settled)
			after := g.ok(t, merge+" wait=true")
			if after["state"] != "merged" || !strings.Contains(after.msg(), "nothing to do") {
				t.Errorf("the same line after the boot: %s", after)
			}
			if again := g.ok(t, merge); again["state"] != "merged" || again["changed"] != false {
				t.Errorf("and once more: %s", again)
			}
			if left := g.run(t, "lvs -a --noheadings -o lv_name,origin,lv_tags vg00 vg02 | grep -E 'set=|snap' ; true"); left != "" {
				t.Errorf("left behind: %s", left)
			}
			g.tidy(t)
			t.Logf("%s; after the boot: %s", deferred.msg(), after.msg())
		})
	}
}
