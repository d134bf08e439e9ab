//go:build lab

package scenarios

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tortureSets is how many sets of thick volumes make torture takes under the counter, on each guest.
const tortureSets = 50

// counted is a volume with a file system on which the counter is at work.
type counted struct {
	lv, point string
	below     string // the counter's directory, as seen from the mount point
}

// lookInside defines a function that prints the counter in a snapshot. With a third word it also has the file system
// checked, when the mount has replayed its log: XFS leaves one at a suspend, too.
const lookInside = `
inside() {
	d=/dev/$1 type=$(blkid -po value -s TYPE /dev/$1)
	if [ "$type" = crypto_LUKS ]; then
		cryptsetup open --readonly --key-file /root/safe.key $d inside || return
		d=/dev/mapper/inside type=$(blkid -po value -s TYPE $d)
	fi
	case $type in
		xfs) o=ro,nouuid check="xfs_repair -n" ;;
		*) o=ro check="e2fsck -fn" ;;
	esac
	mount -o $o $d /mnt && echo $(cat /mnt/$2/counter)
	umount /mnt
	[ -z "$3" ] || $check $d >/run/checked 2>&1 || { echo $d; cat /run/checked; failed=1; }
	[ $d != /dev/mapper/inside ] || cryptsetup close inside
}
`

// points are where volumes are mounted, as lvm_snapshot takes them.
func points(volumes []counted) string {
	var all []string
	for _, v := range volumes {
		all = append(all, v.point)
	}
	return strings.Join(all, ",")
}

// oneInstant fails the test if the counters in a set could not have been of one instant, and removes the set. check,
// unless it is empty, has the file systems checked.
func (g guest) oneInstant(t *testing.T, check string, volumes ...counted) {
	t.Helper()
	var snapshots []string
	read := lookInside
	for _, v := range volumes {
		snapshots = append(snapshots, v.lv+"_snap")
		read += strings.Join([]string{"inside", v.lv + "_snap", "./" + v.below, check, "|| failed=1\n"}, " ")
	}
	out := g.run(t, read+"rm -f /run/checked; lvremove -qqy "+strings.Join(snapshots, " ")+" && [ -z \"$failed\" ]")
	numbers := make([]int64, 0, len(volumes))
	for _, word := range fields(out) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			t.Fatalf("counters of the set: %q", out)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) != len(volumes) || numbers[0] == 0 {
		t.Fatalf("counters of the set: %q", out)
	}
	falling := slices.IsSortedFunc(numbers, func(a, b int64) int { return int(b - a) })
	if apart := slices.Max(numbers) - slices.Min(numbers); apart > 1 || !falling {
		t.Errorf("the set holds %d on %s: not one instant", numbers, points(volumes))
	}
}

// takeSets takes sets of the same volumes under the counter; the last one's file systems are checked.
func (g guest) takeSets(t *testing.T, sets int, words string, volumes ...counted) {
	t.Helper()
	var directories []string
	for _, v := range volumes {
		directories = append(directories, v.point+"/"+v.below)
	}
	g.count(t, directories...)
	var longest float64
	for i := range sets {
		check := ""
		if i == sets-1 {
			check = "checked"
		}
		r := g.ok(t, "lvm_snapshot volumes="+points(volumes)+" "+words)
		pause, ok := r["pause_ms"].(float64)
		if !ok || pause <= 0 {
			t.Errorf("the result says a pause of %v ms", r["pause_ms"])
		}
		longest = max(longest, pause)
		g.oneInstant(t, check, volumes...)
	}
	if t.Failed() {
		return
	}
	t.Logf("%d sets of %d volumes, in each all within the one write in flight, and the last one's file systems clean; "+
		"longest pause told %.0f ms, longest round of the writer %s ms", sets, len(volumes), longest,
		g.run(t, "cat /run/counter.worst"))
}

// threeMore makes volumes beside the guest's own: an encrypted one, and two in another group.
const threeMore = `head -c 64 /dev/urandom >/root/safe.key
lvcreate -qqy -Wn -L 64M -n safe vg00; lvcreate -qqy -Wn -L 320M -n three vg01; lvcreate -qqy -Wn -L 64M -n four vg01
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vg00/safe /root/safe.key
cryptsetup open --key-file /root/safe.key /dev/vg00/safe safe
mkfs.ext4 -q /dev/mapper/safe; mkfs.xfs -q -f /dev/vg01/three; mkfs.ext4 -q -F /dev/vg01/four
mkdir -p /srv/safe /srv/three /srv/four
mount /dev/mapper/safe /srv/safe; mount /dev/vg01/three /srv/three; mount /dev/vg01/four /srv/four`

const noThreeMore = `umount /srv/safe /srv/three /srv/four; cryptsetup close safe
lvremove -qqy vg00/safe vg01/three vg01/four; rm -f /root/safe.key; rmdir /srv/safe /srv/three /srv/four`

// TestOneInstant takes sets while a writer syncs the same number to all file systems in turn.
func TestOneInstant(t *testing.T) {
	g := guestFor(t)
	volumes := []counted{{lv: "vg00/dat", point: "/dat"}, {lv: "vg00/pccehr", point: "/pccehr"}}
	of2, of5 := 2, 1
	if *torture {
		of2, of5 = tortureSets/2, tortureSets/2
	}
	t.Run("2 volumes", func(t *testing.T) {
		playedOn(t, "d12")
		g.takeSets(t, of2, "", volumes...)
	})
	t.Run("5 volumes", func(t *testing.T) {
		playedOn(t, "d13")
		g.scratch(t, threeMore, noThreeMore)
		g.takeSets(t, of5, "", append(volumes, counted{lv: "vg00/safe", point: "/srv/safe"},
			counted{lv: "vg01/three", point: "/srv/three"}, counted{lv: "vg01/four", point: "/srv/four"})...)
	})
}

// TestNothingIsWrittenBetweenTheSnapshots holds a set when the first of its snapshots has begun and the second has not:
// for as long as this takes, nothing is written to either volume.
func TestNothingIsWrittenBetweenTheSnapshots(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	volumes := []counted{{lv: "vg00/dat", point: "/dat"}, {lv: "vg00/pccehr", point: "/pccehr"}}
	g.count(t, "/dat", "/pccehr")
	c := g.start(t, armed("instant.started hang")+"lvm_snapshot volumes="+points(volumes)+" freeze_timeout=120")
	g.eventually(t, "the failpoint", atPlace, reachLimit)
	g.run(t, "sleep 2; "+goOn) // a writer that could go on would be hundreds of writes further
	if r := c.result(t); r.failed() {
		t.Fatalf("the set that was held: %s", r)
	}
	g.oneInstant(t, "", volumes...)
	if !t.Failed() {
		t.Log("a set that was held for 2 s between its snapshots is of one instant")
	}
}

// thinPair makes two thin volumes in a pool on vg01, mounted, and takes them away again.
const thinPair = `lvcreate -qqy -L 900M -T vg01/pool && lvcreate -qqy -V 400M -T vg01/pool -n one && lvcreate -qqy -V 400M -T vg01/pool -n two &&
mkfs.xfs -q /dev/vg01/one && mkfs.ext4 -q /dev/vg01/two && mkdir -p /one /two && mount /dev/vg01/one /one && mount /dev/vg01/two /two`

const noThinPair = `umount /one /two; lvremove -qqy vg01/pool; rmdir /one /two`

// soundPool succeeds where LVM and the kernel agree on the pool of thinPair and its metadata are whole. The volumes are
// not in use afterwards.
const soundPool = `umount /one /two; vgck vg01 && lvchange -an vg01/one vg01/two vg01/pool && lvchange -qqy -ay vg01/pool_tmeta &&
thin_check /dev/mapper/vg01-pool_tmeta >/run/checked 2>&1 || { cat /run/checked; exit 1; }
lvchange -an vg01/pool_tmeta && lvchange -ay vg01/pool vg01/one vg01/two && mount /dev/vg01/one /one && mount /dev/vg01/two /two`

// TestOneInstantThin does the same for thin volumes, which their pool makes anew at the instant. Afterwards the pool is
// whole, and a set of it is rolled back to.
func TestOneInstantThin(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, thinPair, "lvm_snapshot state=absent >/dev/null; "+noThinPair)
	sets := 2
	if *torture {
		sets = 20
	}
	t.Run("sets", func(t *testing.T) {
		g.takeSets(t, sets, "", counted{lv: "vg01/one", point: "/one"}, counted{lv: "vg01/two", point: "/two"})
	})
	g.run(t, soundPool+"\necho old | tee /one/file >/two/file; sync")
	g.ok(t, "lvm_snapshot volumes=/one,/two")
	g.run(t, "echo new | tee /one/file >/two/file; sync")
	g.ok(t, "lvm_merge wait=true")
	if got := g.run(t, "cat /one/file /two/file; lvs --noheadings -o lv_name vg01 | grep -c _snap || true"); got != "old\nold\n0" {
		t.Errorf("after the rollback: %q", got)
	}
	g.run(t, soundPool)
}

// TestKilledWhileThinSnapshotsAreMadeAnew kills a set of thin volumes where LVM has snapshots that the pool does not have:
// writes go on, nothing is left, and the pool is whole.
func TestKilledWhileThinSnapshotsAreMadeAnew(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, thinPair, "lvm_snapshot state=absent >/dev/null; "+noThinPair)
	before := g.run(t, devices)
	for _, m := range []struct {
		words string
		on    string // the guest that plays it also without -torture
	}{
		{armed("instant.prepare kill"), "d12"}, {armed("snapset.prepared kill"), ""}, {armed("instant.held kill"), ""},
		{armed("instant.started kill"), "d13"}, {armed("instant.resumed kill"), ""}, {armed("snapset.still kill"), ""},
		{armed("command.lvchange.started groupkill"), ""},
	} {
		if m.on != g.lab && !*torture {
			continue
		}
		g.fails(t, m.words+"lvm_snapshot volumes=/one,/two", "interrupted")
		g.run(t, "for d in /one /two; do timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none && rm $d/probe || exit; done")
		g.unchanged(t, before)
	}
	g.run(t, soundPool)
	g.ok(t, "lvm_snapshot volumes=/one,/two")
}

// TestPowerCutWhileThinSnapshotsAreMadeAnew cuts the power there: the server comes up with all volumes, and the next run
// removes what LVM has of the set and takes it.
func TestPowerCutWhileThinSnapshotsAreMadeAnew(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, thinPair, "lvm_snapshot state=absent >/dev/null; "+noThinPair)
	const take = "lvm_snapshot volumes=vg01/one,vg01/two"
	for _, place := range []string{"instant.prepare", "instant.held", "instant.started", "snapset.still"} {
		c := g.start(t, armed(place+" hang")+take)
		g.eventually(t, "the failpoint", atPlace, reachLimit)
		c.drop(t)
		g.cut(t)
		// No mount of fstab has a boot wait for these volumes: LVM activates them when udev has seen their disk.
		g.eventually(t, "the thin volumes", "test -b /dev/vg01/one && test -b /dev/vg01/two", settled)
		g.run(t, active+" && mount /dev/vg01/one /one && mount /dev/vg01/two /two")
		if r := g.ok(t, take); r["changed"] != true || len(r.rows("snapshots")) != 2 {
			t.Errorf("the same task after the boot: %v", r)
		}
		g.ok(t, "lvm_snapshot state=absent")
		g.run(t, soundPool)
		t.Logf("power cut at %q: the next run removed what was made, and took the set", place)
	}
}

// thinAndThick makes a thin volume and a thick one in one volume group, mounted.
const thinAndThick = `lvcreate -qqy -L 500M -T vg01/pool; lvcreate -qqy -V 400M -T vg01/pool -n one
lvcreate -qqy -Wn -L 400M -n two vg01; mkfs.xfs -q -f /dev/vg01/one; mkfs.ext4 -q -F /dev/vg01/two
mkdir -p /one /two; mount /dev/vg01/one /one; mount /dev/vg01/two /two`

const noThinAndThick = `lvm_snapshot state=absent >/dev/null; umount /one /two
lvremove -qqy vg01/two vg01/pool; rmdir /one /two`

// TestOneInstantThinAndThick takes sets of a thin volume and a thick one of the same volume group.
func TestOneInstantThinAndThick(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, thinAndThick, noThinAndThick)
	g.takeSets(t, 8, "", counted{lv: "vg01/one", point: "/one"}, counted{lv: "vg01/two", point: "/two"})
}
