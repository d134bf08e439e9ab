//go:build lab

package scenarios

import (
	"strings"
	"testing"
)

// rootSets is how many sets with the root volume are taken while the counter writes.
const rootSets = 3

// moveRoot copies the running system to a new volume on a third disk, and boots from that. The script layout makes the
// volume vg02/root.
func (g guest) moveRoot(t *testing.T, layout string) {
	t.Helper()
	g.run(t, "sync") // a power cut must not lose the modules that were just installed
	g.cutPower(t, "--root", "/dev/vda")
	g.run(t, "set -e\npvcreate -qqy /dev/vdc; vgcreate -qq vg02 /dev/vdc; "+layout+`
mkfs.ext4 -q /dev/vg02/root; mount /dev/vg02/root /mnt; cp -ax /. /mnt
sed -i 's#^/dev/vda #/dev/mapper/vg02-root #' /mnt/etc/fstab; umount /mnt`)
	g.cutPower(t, "--root", "/dev/mapper/vg02-root")
	if on := g.run(t, "findmnt -no SOURCE /"); on != "/dev/mapper/vg02-root" {
		t.Fatalf("the root file system is %s", on)
	}
}

// killWhileRootIsHeld kills a run while the root file system is suspended, on which are the run's own program and LVM's
// files. take is the command line that takes the set.
func (g guest) killWhileRootIsHeld(t *testing.T, take string) {
	t.Helper()
	before := g.run(t, devices)
	r := g.fails(t, withFailpoint("instant.held kill")+take, "interrupted")
	g.run(t, "for d in /root /dat /pccehr; do timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none "+
		"|| exit 1; rm -f $d/probe; done")
	g.checkUnchanged(t, before)
	t.Logf("killed while / was suspended: %s; writes went on", r.msg())
}

// TestRootVolume rolls the root file system back together with the data. That is done at the next boot, because / can
// never be unmounted before. Rewind's journal is on it and is rolled back, too, so that it does not have the rollback.
func TestRootVolume(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	t.Cleanup(func() {
		if err := g.reset(); err != nil {
			t.Error(err)
		}
	})
	for _, root := range []struct{ name, layout, take string }{
		{"thick", "lvcreate -qqy -L 2G -n root vg02", "lvm_snapshot volumes=/,/dat,/pccehr size=400m"},
		{"thin", "lvcreate -qqy -T -L 3G -V 2G -n root vg02/pool", "lvm_snapshot volumes=/,/dat,/pccehr size=400m"},
	} {
		t.Run(root.name, func(t *testing.T) {
			if err := g.reset(); err != nil {
				t.Fatal(err)
			}
			g.moveRoot(t, root.layout)
			const markers = "/root/marker /dat/marker /pccehr/marker"
			if root.name == "thick" {
				g.killWhileRootIsHeld(t, root.take)
				t.Run("one instant", func(t *testing.T) {
					g.takeSets(t, rootSets, "size=400m", countedVolume{lv: "vg02/root", mountPoint: "/", subdirectory: "root"},
						countedVolume{lv: "vg00/dat", mountPoint: "/dat"}, countedVolume{lv: "vg00/pccehr", mountPoint: "/pccehr"})
				})
			}
			g.run(t, "echo kept | tee "+markers+"; sync")
			g.ok(t, root.take)
			g.run(t, "echo lost | tee "+markers+
				"; dd if=/dev/urandom of=/root/bulk bs=1M count=200 conv=fsync status=none; sync")
			const merge = rollBackBoth + " when_busy=defer"
			const want = "kept kept kept"
			const rolledBack = `test "$(echo $(cat ` + markers + `))" = "` + want + `" && ! test -e /root/bulk && ` + allActive
			if root.name == "thick" {
				// The power fails when all members but the root volume, which has the journal, are deferred. So the server boots
				// twice.
				c := g.start(t, withFailpoint("rollback.deferred.others hang")+merge)
				g.eventually(t, "the failpoint", failpointReached, reachLimit)
				c.dropConnection(t)
				g.cutPower(t)
				g.eventually(t, "after a power cut between the deferred merges, the data of the set", rolledBack, settleLimit)
				g.ok(t, merge+" wait=true")
				g.checkTidy(t)
				g.ok(t, root.take)
				g.run(t, "echo lost | tee "+markers+"; sync")
			}
			deferred := g.ok(t, merge)
			if deferred["state"] != "deferred" {
				t.Errorf("want deferred: %s", deferred)
			}
			g.run(t, "sync")
			g.cutPower(t)
			g.eventually(t, "the data of the set and running services", rolledBack, settleLimit)
			after := g.ok(t, merge+" wait=true")
			if after["state"] != "merged" || !strings.Contains(after.msg(), "nothing to do") {
				t.Errorf("the same call after the boot: %s", after)
			}
			if again := g.ok(t, merge); again["state"] != "merged" || again["changed"] != false {
				t.Errorf("and once more: %s", again)
			}
			left := g.run(t, "lvs -a --noheadings -o lv_name,origin,lv_tags vg00 vg02 | grep -E 'set=|snap' ; true")
			if left != "" {
				t.Errorf("left behind: %s", left)
			}
			g.checkTidy(t)
			t.Logf("%s; after the boot: %s", deferred.msg(), after.msg())
		})
	}
}
