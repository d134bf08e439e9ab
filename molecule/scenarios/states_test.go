//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSetIsMountedExtendedAndRemoved extends, mounts, unmounts and removes a set, each with --check before it and once
// more after it, and rolls back to a set that is mounted.
func TestSetIsMountedExtendedAndRemoved(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "echo old > /pccehr/rw-file; sync", `lvm_snapshot name=look state=absent >/dev/null 2>&1
rm -f /pccehr/rw-file; systemctl start pccehr; rmdir /srv/look/* /srv/look 2>/dev/null; ! test -e /srv/look`)
	const set = "lvm_snapshot name=look volumes=/pccehr "
	const atLook = "lvm_snapshot name=look volumes=/dat,/pccehr state=mounted mountpoint=/srv/look options=noexec"
	wants := []struct {
		call    string
		changed bool
	}{
		{set + "size=40m", true},
		{set + "size=60m --check", true},
		{set + "size=60m", true},
		{set + "size=20m", false}, // never shrinks
		{set + "state=mounted --check", true},
		{set + "state=mounted", true},
		{set + "state=mounted", false},
		{"lvm_snapshot name=look state=unmounted --check", true},
		{"lvm_snapshot name=look state=unmounted", true},
		{"lvm_snapshot name=look state=unmounted", false},
		{"lvm_snapshot name=look state=absent", true},
		{atLook, true},
		{atLook, false},
	}
	var calls []string
	for _, w := range wants {
		calls = append(calls, w.call)
	}
	results := g.callEach(t, calls...)
	for i, r := range results {
		if r.failed() || r["changed"] != wants[i].changed {
			t.Fatalf("call %d, %s: want changed: %v, got %s", i, calls[i], wants[i].changed, r)
		}
	}
	for i, mib := range map[int]int{0: 40, 2: 60, 3: 60} {
		if got := results[i].rows("snapshots")[0]["cow_bytes"]; got != float64(mib<<20) {
			t.Errorf("call %d, %s: the COW space has %v bytes, want %d MiB", i, calls[i], got, mib)
		}
	}
	if standard, _ := results[11].rows("snapshots")[0]["cow_bytes"].(float64); standard < 4<<20 {
		t.Errorf("the result does not have the default size: %s", results[11])
	}
	got := g.run(t, `echo new > /pccehr/rw-file; cat /srv/look/pccehr/rw-file; ls /run/rewind/mounts 2>/dev/null
for v in dat pccehr; do
findmnt -no OPTIONS /srv/look/$v | tr , '\n' | grep -xE 'ro|noatime|nouuid|noexec' | sort | tr '\n' ' '; done`)
	if want := "old\nnoatime noexec nouuid ro noatime noexec ro "; got != want {
		t.Errorf("the mounted set shows %q, want %q", got, want)
	}

	g.fails(t, "lvm_snapshot name=look state=absent volumes=/dat", "set_differs")
	checked := g.ok(t, "lvm_snapshot name=look state=absent --check")
	if !strings.Contains(checked.msg(), "would unmount it from /srv/look") {
		t.Errorf("the check does not name the mounts that would be unmounted: %s", checked)
	}
	if r := g.ok(t, "lvm_snapshot name=look state=absent"); r["changed"] != true {
		t.Errorf("a mounted set was not removed: %s", r)
	}
	g.run(t, "rmdir /srv/look/* /srv/look; echo old > /pccehr/rw-file; sync")
	const none = set + "size=40m state=mounted mountpoint=/srv/look"
	r := g.callEach(t, none+" mountpoint_create=false", "lvm_snapshot_info name=look", none)
	if r[0].code() != "not_found" || !strings.Contains(r[0].msg(), "/srv/look") || len(r[1].rows("sets")) != 0 {
		t.Errorf("a mount point that does not exist: %s\nand the sets after that: %s", r[0], r[1])
	}
	g.run(t, "echo new > /pccehr/rw-file; findmnt -n /srv/look")
	merged := g.ok(t, "lvm_merge name=look services=pccehr start_services=false wait=true")
	got = g.run(t, "cat /pccehr/rw-file; systemctl is-active pccehr; findmnt -n /srv/look; true")
	if got != "old\ninactive" || !strings.Contains(merged.msg(), "left stopped") || merged["state"] != "merged" {
		t.Errorf("after a rollback to a mounted set with start_services=false: %q, %s", got, merged)
	}
	t.Logf("taken, extended, never shrunk, mounted in both places, unmounted, removed while mounted: --check and each " +
		"second call changed nothing; rolled back while mounted with the service left stopped")
}

// TestSizesAndPlaces takes sets with each form of size, and one whose volume has a mount point and options of its own.
func TestSizesAndPlaces(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, "true", "lvm_snapshot name=words state=absent >/dev/null; rmdir /srv/own 2>/dev/null; true")
	const free = "vgs --noheadings --units b --nosuffix -o vg_free,vg_size vg00"
	var left, all float64
	if _, err := fmt.Sscan(g.run(t, free), &left, &all); err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	wants := map[string]float64{"10%ORIGIN": 51.2 * mib, "5%FREE": left / 20, "1%VG": all / 100, "50m": 50 * mib}
	for size, want := range wants {
		r := g.ok(t, "lvm_snapshot name=words volumes=/pccehr size="+size)
		got, _ := r.rows("snapshots")[0]["cow_bytes"].(float64)
		lvmSize := strings.TrimSpace(g.run(t, `lvs --noheadings --units b --nosuffix -o lv_size vg00/pccehr_words
lvm_snapshot name=words state=absent >/dev/null`))
		if lvmSize != fmt.Sprintf("%.0f", got) {
			t.Errorf("size=%s: the result says %.0f, LVM %s", size, got, lvmSize)
		}
		if got < want-4*mib || got > want+8*mib { // whole extents of 4 MiB, and some for the snapshot's own metadata
			t.Errorf("size=%s: %.1f MiB, want about %.1f", size, got/mib, want/mib)
		}
	}
	g.run(t, "echo here >/pccehr/rw-file")
	const own = `[{"vg":"vg00","lv":"pccehr","size":"20m","mountpoint":"/srv/own","options":"noexec"}]`
	g.ok(t, "lvm_snapshot name=words state=mounted volumes='"+own+"'")
	g.run(t, "findmnt -no OPTIONS /srv/own | grep noexec | grep -w ro && grep here /srv/own/rw-file")
	t.Log("percentages of the origin, the free space and the volume group; a volume with its own mount point and options")
}

// TestDeferredToTheNextBoot rolls back volumes that cannot be closed, like the root volume, at the next boot.
func TestDeferredToTheNextBoot(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, noteStarts+"\n"+takeAndHarm+"\nsystemd-run -q --unit=rw-keeper --working-directory=/dat sleep infinity",
		"systemctl stop rw-keeper 2>/dev/null; lvm_snapshot state=absent >/dev/null 2>&1\n"+stopNotingStarts)
	const merge = rollBackBoth + " when_busy=defer"
	busy := g.fails(t, rollBackBoth, "busy")
	r := g.callEach(t, merge+" --check", merge, merge)
	for i, changed := range []bool{true, true, false} {
		if r[i].failed() || r[i]["changed"] != changed {
			t.Errorf("call %d: want changed: %v, got %s", i, changed, r[i])
		}
	}
	if r[1]["state"] != "deferred" || r[2]["state"] != "deferred" || !strings.Contains(busy.hint(), "rw-keeper.service") {
		t.Errorf("want deferred, and before that the unit that cannot be started again: %s\n%s\n%s", r[1], r[2], busy)
	}
	got := g.run(t, "cat /dat/marker /pccehr/marker; systemctl is-active rw-keeper pccehr; sync")
	if got != "lost\nlost\nactive\nactive" {
		t.Errorf("before the boot: %q", got)
	}
	g.cutPower(t)
	g.checkVolumesHold(t, "kept")
	g.eventually(t, "the end of the merges", `test -z "$(lvs --noheadings -o origin vg00 | tr -d ' \n')" &&
! ls -R /etc/systemd/system | grep rewind`, settleLimit)
	if after := g.ok(t, merge); after["state"] != "merged" || after["changed"] != false {
		t.Errorf("after the boot: %s", after)
	}
	g.checkTidy(t)
	t.Logf("%s; the boot did it before anything was mounted: the services started on nothing else, and the boot guard is "+
		"removed", r[1].msg())
}

// TestDeferredAndLost has the snapshot of a deferred rollback overflow before the boot. Then nothing can be rolled
// back, and the boot guard lets the volume be mounted as it is.
func TestDeferredAndLost(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, `lvm_snapshot name=late volumes=/pccehr size=8m
systemd-run -q --unit=rw-keeper --working-directory=/pccehr sleep infinity`,
		`systemctl stop rw-keeper 2>/dev/null; rm -f /pccehr/rw-fill
! lvs vg00/pccehr_late >/dev/null 2>&1 || lvremove -qqy vg00/pccehr_late`)
	const merge = "lvm_merge name=late services=pccehr when_busy=defer"
	if r := g.ok(t, merge); r["state"] != "deferred" {
		t.Fatalf("want deferred: %s", r)
	}
	// A run that has not ended would give the rollback up as soon as the snapshot overflows.
	g.eventually(t, "the end of the run", noRunLeft, 10*time.Second)
	g.run(t, "dd if=/dev/zero of=/pccehr/rw-fill bs=1M count=20 conv=fsync status=none; sync")
	const state = `lvs -a --noheadings -o lv_name,lv_attr,lv_merging,lv_snapshot_invalid vg00
dmsetup status | grep pccehr`
	t.Logf("overflowed before the boot: %s", g.run(t, state))
	g.cutPower(t)
	g.eventually(t, "the volume in use and the rollback given up",
		"findmnt /pccehr && test -s /pccehr/rw-fill && systemctl is-active pccehr && "+
			"! ls -R /etc/systemd/system | grep rewind", settleLimit)
	t.Logf("after the boot: %s", g.run(t, state))
	log := g.run(t, "journalctl -b --no-pager -u rewind-guard -u rewind-resume")
	if !strings.Contains(log, "is given up") || !strings.Contains(log, "lvremove vg00/pccehr_late") {
		t.Errorf("the system's log does not say what happened: %s", log)
	}
	if again := g.fails(t, merge, "snapshot_invalid"); again["changed"] == true {
		t.Errorf("the same call after the boot: %s", again)
	}
	g.run(t, "lvremove -qqy vg00/pccehr_late && findmnt /pccehr")
	g.checkTidy(t)
	t.Log("the guard let the volume be mounted as it was, settling closed the journal entry, and lvremove removed the " +
		"snapshot")
}

// TestSetIsTakenAgain rolls back with resnapshot=true, as for a rehearsal: the same set is taken again before the
// services start.
func TestSetIsTakenAgain(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	const listAtStart = `mkdir -p /etc/systemd/system/pccehr.service.d &&
cat >/etc/systemd/system/pccehr.service.d/seen.conf <<'UNIT'
[Service]
ExecStartPre=/bin/sh -c 'lvs --noheadings -o lv_name,lv_attr --separator / vg00 vg01 >/run/seen'
UNIT
systemctl daemon-reload`
	g.prepare(t, makeThinPair+"\n"+listAtStart+"\necho old | tee /one/file /two/file >/pccehr/file; sync",
		`lvm_snapshot state=absent >/dev/null 2>&1
rm -rf /etc/systemd/system/pccehr.service.d /run/seen /pccehr/file; systemctl daemon-reload
`+removeThinPair)
	const merge = "lvm_merge services=pccehr resnapshot=true"
	for _, kind := range []struct{ name, take, files string }{
		{"thick", "lvm_snapshot volumes=/pccehr size=60m", "/pccehr/file"},
		{"thin", "lvm_snapshot volumes=/one,/two", "/one/file /two/file"},
	} {
		first := g.ok(t, kind.take)
		g.run(t, "echo new | tee "+kind.files+"; sync")
		if m := g.ok(t, merge+" --check").msg(); strings.Contains(m, "the services wait") != (kind.name == "thick") {
			t.Errorf("%s: the check says %q", kind.name, m)
		}
		r := g.ok(t, merge)
		got := strings.Fields(g.run(t, "cat "+kind.files+"; cat /run/seen"))
		files := len(strings.Fields(kind.files))
		if strings.Join(got[:files], " ") != strings.TrimSpace(strings.Repeat("old ", files)) {
			t.Errorf("%s: after the rollback: %v, %s", kind.name, got[:files], r)
		}
		var snapshots int
		for _, volume := range got[files:] {
			name, attr, _ := strings.Cut(volume, "/")
			if strings.Contains("OS", attr[:1]) {
				t.Errorf("%s: the service started while %s was merging (%s)", kind.name, name, attr)
			}
			if strings.HasSuffix(name, "_snap") {
				snapshots++
			}
		}
		set := g.ok(t, "lvm_snapshot_info name=snap").rows("sets")
		if snapshots != files || len(set) != 1 || set[0]["id"] == first["id"] || set[0]["state"] != "ok" {
			t.Errorf("%s: the set had %d snapshots when the service started, want %d: %v", kind.name, snapshots, files, set)
		}
		g.ok(t, "lvm_snapshot state=absent")
		t.Logf("%s: rolled back, taken again before the service started: %s", kind.name, r.msg())
	}
}
