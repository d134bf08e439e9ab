//go:build lab

package scenarios

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tortureSets is how many sets of thick volumes make torture takes on each guest while the counter writes.
const tortureSets = 50

// countedVolume is a volume with a file system on which the counter writes.
type countedVolume struct {
	lv, mountPoint string
	subdirectory   string // the counter's directory, relative to the mount point
}

// defineInside defines the shell function inside SNAPSHOT DIRECTORY [check], which prints the counter in a snapshot.
// With a third argument it also checks the file system. It does so after the mount has replayed the log, because XFS
// leaves a log to be replayed at a suspend, too.
const defineInside = `
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

// mountPoints returns the mount points of volumes in the form in which lvm_snapshot takes them.
func mountPoints(volumes []countedVolume) string {
	var all []string
	for _, v := range volumes {
		all = append(all, v.mountPoint)
	}
	return strings.Join(all, ",")
}

// checkOneInstant fails the test if the counters in a set cannot be of one instant, and removes the set. If check is
// not empty, it also checks the file systems.
func (g guest) checkOneInstant(t *testing.T, check string, volumes ...countedVolume) {
	t.Helper()
	var snapshots []string
	read := defineInside
	for _, v := range volumes {
		snapshots = append(snapshots, v.lv+"_snap")
		read += strings.Join([]string{"inside", v.lv + "_snap", "./" + v.subdirectory, check, "|| failed=1\n"}, " ")
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
		t.Errorf("the set holds %d on %s: not one instant", numbers, mountPoints(volumes))
	}
}

// takeSets takes a number of sets of the same volumes, one after the other, while the counter writes, and checks each.
// It also checks the file systems of the last one. The arguments are more arguments of lvm_snapshot.
func (g guest) takeSets(t *testing.T, sets int, arguments string, volumes ...countedVolume) {
	t.Helper()
	var directories []string
	for _, v := range volumes {
		directories = append(directories, v.mountPoint+"/"+v.subdirectory)
	}
	g.startCounter(t, directories...)
	var longest float64
	for i := range sets {
		check := ""
		if i == sets-1 {
			check = "checked"
		}
		r := g.ok(t, "lvm_snapshot volumes="+mountPoints(volumes)+" "+arguments)
		pause, ok := r["pause_ms"].(float64)
		if !ok || pause <= 0 {
			t.Errorf("the result says a pause of %v ms", r["pause_ms"])
		}
		longest = max(longest, pause)
		g.checkOneInstant(t, check, volumes...)
	}
	if t.Failed() {
		return
	}
	t.Logf("%d sets of %d volumes, each of one instant, and the file systems of the last one are clean; "+
		"longest pause in a result %.0f ms, longest round of the counter %s ms", sets, len(volumes), longest,
		g.run(t, "cat /run/counter.worst"))
}

// makeThreeMore makes three more volumes: an encrypted one, and two in the other volume group.
const makeThreeMore = `head -c 64 /dev/urandom >/root/safe.key
lvcreate -qqy -Wn -L 64M -n safe vg00; lvcreate -qqy -Wn -L 320M -n three vg01; lvcreate -qqy -Wn -L 64M -n four vg01
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vg00/safe /root/safe.key
cryptsetup open --key-file /root/safe.key /dev/vg00/safe safe
mkfs.ext4 -q /dev/mapper/safe; mkfs.xfs -q -f /dev/vg01/three; mkfs.ext4 -q -F /dev/vg01/four
mkdir -p /srv/safe /srv/three /srv/four
mount /dev/mapper/safe /srv/safe; mount /dev/vg01/three /srv/three; mount /dev/vg01/four /srv/four`

const removeThreeMore = `umount /srv/safe /srv/three /srv/four; cryptsetup close safe
lvremove -qqy vg00/safe vg01/three vg01/four; rm -f /root/safe.key; rmdir /srv/safe /srv/three /srv/four`

// TestOneInstant takes sets while the counter writes and syncs the same number on all file systems in turn.
func TestOneInstant(t *testing.T) {
	g := guestFor(t)
	volumes := []countedVolume{{lv: "vg00/dat", mountPoint: "/dat"}, {lv: "vg00/pccehr", mountPoint: "/pccehr"}}
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
		g.prepare(t, makeThreeMore, removeThreeMore)
		five := append(volumes,
			countedVolume{lv: "vg00/safe", mountPoint: "/srv/safe"},
			countedVolume{lv: "vg01/three", mountPoint: "/srv/three"},
			countedVolume{lv: "vg01/four", mountPoint: "/srv/four"})
		g.takeSets(t, of5, "", five...)
	})
}

// TestNothingIsWrittenBetweenTheSnapshots stops a run when the first of a set's snapshots has begun and the second has
// not. As long as it is stopped, nothing is written to either volume.
func TestNothingIsWrittenBetweenTheSnapshots(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	volumes := []countedVolume{{lv: "vg00/dat", mountPoint: "/dat"}, {lv: "vg00/pccehr", mountPoint: "/pccehr"}}
	g.startCounter(t, "/dat", "/pccehr")
	c := g.start(t, withFailpoint("instant.started hang")+
		"lvm_snapshot volumes="+mountPoints(volumes)+" freeze_timeout=120")
	g.eventually(t, "the failpoint", failpointReached, reachLimit)
	g.run(t, "sleep 2; "+releaseFailpoint) // a counter that could write meanwhile would be hundreds of numbers further
	if r := c.result(t); r.failed() {
		t.Fatalf("the set whose run was stopped: %s", r)
	}
	g.checkOneInstant(t, "", volumes...)
	if !t.Failed() {
		t.Log("a set whose run was stopped for 2 s between its snapshots is of one instant")
	}
}

// makeThinPair makes two thin volumes in a pool in vg01, and mounts them.
const makeThinPair = `lvcreate -qqy -L 900M -T vg01/pool &&
lvcreate -qqy -V 400M -T vg01/pool -n one && lvcreate -qqy -V 400M -T vg01/pool -n two &&
mkfs.xfs -q /dev/vg01/one && mkfs.ext4 -q /dev/vg01/two &&
mkdir -p /one /two && mount /dev/vg01/one /one && mount /dev/vg01/two /two`

const removeThinPair = `umount /one /two; lvremove -qqy vg01/pool; rmdir /one /two`

// checkPool succeeds if LVM and the kernel agree on the pool of makeThinPair and the pool's metadata are sound. For
// that it unmounts and deactivates the volumes. Afterwards they are active and mounted again.
const checkPool = `umount /one /two; vgck vg01 &&
lvchange -an vg01/one vg01/two vg01/pool && lvchange -qqy -ay vg01/pool_tmeta &&
thin_check /dev/mapper/vg01-pool_tmeta >/run/checked 2>&1 || { cat /run/checked; exit 1; }
lvchange -an vg01/pool_tmeta && lvchange -ay vg01/pool vg01/one vg01/two &&
mount /dev/vg01/one /one && mount /dev/vg01/two /two`

// thinPair are the volumes of makeThinPair and of makeThinAndThick.
var thinPair = []countedVolume{{lv: "vg01/one", mountPoint: "/one"}, {lv: "vg01/two", mountPoint: "/two"}}

// TestOneInstantThin takes sets of thin volumes while the counter writes: the pool makes their snapshots anew at the
// instant. Afterwards the pool is sound, and a rollback to a set works.
func TestOneInstantThin(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, makeThinPair, "lvm_snapshot state=absent >/dev/null; "+removeThinPair)
	sets := 2
	if *torture {
		sets = 20
	}
	t.Run("sets", func(t *testing.T) {
		g.takeSets(t, sets, "", thinPair...)
	})
	g.run(t, checkPool+"\necho old | tee /one/file >/two/file; sync")
	g.ok(t, "lvm_snapshot volumes=/one,/two")
	g.run(t, "echo new | tee /one/file >/two/file; sync")
	g.ok(t, "lvm_merge wait=true")
	got := g.run(t, "cat /one/file /two/file; lvs --noheadings -o lv_name vg01 | grep -c _snap || true")
	if got != "old\nold\n0" {
		t.Errorf("after the rollback: %q", got)
	}
	g.run(t, checkPool)
}

// TestKilledWhileThinSnapshotsAreMadeAnew kills the run that takes a set of thin volumes, at moments at which LVM has
// snapshots that the pool does not have. Writes go on, nothing is left, and the pool is sound.
func TestKilledWhileThinSnapshotsAreMadeAnew(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.prepare(t, makeThinPair, "lvm_snapshot state=absent >/dev/null; "+removeThinPair)
	before := g.run(t, devices)
	for _, c := range []struct {
		point string
		on    string // the guest that plays it also without -torture
	}{
		{"instant.prepare kill", "d12"}, {"snapset.prepared kill", ""}, {"instant.held kill", ""},
		{"instant.started kill", "d13"}, {"instant.resumed kill", ""}, {"snapset.still kill", ""},
		{"command.lvchange.started groupkill", ""},
	} {
		if c.on != g.lab && !*torture {
			continue
		}
		g.fails(t, withFailpoint(c.point)+"lvm_snapshot volumes=/one,/two", "interrupted")
		g.run(t, "for d in /one /two; do "+
			"timeout 60 dd if=/dev/zero of=$d/probe count=1 conv=fsync status=none && rm $d/probe || exit; done")
		g.checkUnchanged(t, before)
	}
	g.run(t, checkPool)
	g.ok(t, "lvm_snapshot volumes=/one,/two")
}

// TestPowerCutWhileThinSnapshotsAreMadeAnew cuts the power at such moments. The server boots with all volumes, and the
// next run removes what LVM has of the set, and takes the set.
func TestPowerCutWhileThinSnapshotsAreMadeAnew(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeThinPair, "lvm_snapshot state=absent >/dev/null; "+removeThinPair)
	const take = "lvm_snapshot volumes=vg01/one,vg01/two"
	for _, place := range []string{"instant.prepare", "instant.held", "instant.started", "snapset.still"} {
		c := g.start(t, withFailpoint(place+" hang")+take)
		g.eventually(t, "the failpoint", failpointReached, reachLimit)
		c.dropConnection(t)
		g.cutPower(t)
		// These volumes are not in fstab, so no boot waits for them: LVM activates them when udev has seen their disk.
		g.eventually(t, "the thin volumes", "test -b /dev/vg01/one && test -b /dev/vg01/two", settleLimit)
		g.run(t, allActive+" && mount /dev/vg01/one /one && mount /dev/vg01/two /two")
		if r := g.ok(t, take); r["changed"] != true || len(r.rows("snapshots")) != 2 {
			t.Errorf("the same task after the boot: %v", r)
		}
		g.ok(t, "lvm_snapshot state=absent")
		g.run(t, checkPool)
		t.Logf("power cut at %q: the next run removed what was made, and took the set", place)
	}
}

// makeThinAndThick makes a thin volume and a thick one in one volume group, and mounts them.
const makeThinAndThick = `lvcreate -qqy -L 500M -T vg01/pool; lvcreate -qqy -V 400M -T vg01/pool -n one
lvcreate -qqy -Wn -L 400M -n two vg01; mkfs.xfs -q -f /dev/vg01/one; mkfs.ext4 -q -F /dev/vg01/two
mkdir -p /one /two; mount /dev/vg01/one /one; mount /dev/vg01/two /two`

const removeThinAndThick = `lvm_snapshot state=absent >/dev/null; umount /one /two
lvremove -qqy vg01/two vg01/pool; rmdir /one /two`

// TestOneInstantThinAndThick takes sets of a thin volume and a thick one of the same volume group.
func TestOneInstantThinAndThick(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeThinAndThick, removeThinAndThick)
	g.takeSets(t, 8, "", thinPair...)
}
