//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSetIsMountedExtendedAndRemoved takes sets through their states, with --check first and once more after, and rolls
// back to it while it is mounted.
func TestSetIsMountedExtendedAndRemoved(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.scratch(t, "echo old > /pccehr/rw-file; sync", `lvm_snapshot name=look state=absent >/dev/null 2>&1
rm -f /pccehr/rw-file; systemctl start pccehr; rmdir /srv/look/* /srv/look 2>/dev/null; ! test -e /srv/look`)
	const set = "lvm_snapshot name=look volumes=/pccehr "
	const here = "lvm_snapshot name=look volumes=/dat,/pccehr state=mounted mountpoint=/srv/look options=noexec"
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
		{here, true},
		{here, false},
	}
	var calls []string
	for _, w := range wants {
		calls = append(calls, w.call)
	}
	results := g.each(t, calls...)
	for i, r := range results {
		if r.failed() || r["changed"] != wants[i].changed {
			t.Fatalf("call %d, %s: want changed: %v, got %s", i, calls[i], wants[i].changed, r)
		}
	}
	for i, mib := range map[int]int{0: 40, 2: 60, 3: 60} {
		if got := results[i].rows("snapshots")[0]["cow_bytes"]; got != float64(mib<<20) {
			t.Errorf("call %d, %s: the COW has %v bytes, want %d MiB", i, calls[i], got, mib)
		}
	}
	if standard, _ := results[11].rows("snapshots")[0]["cow_bytes"].(float64); standard < 4<<20 {
		t.Errorf("the size by default is not told: %s", results[11])
	}
	got := g.run(t, `echo new > /pccehr/rw-file; cat /srv/look/pccehr/rw-file; ls /run/rewind/mounts 2>/dev/null
for v in dat pccehr; do findmnt -no OPTIONS /srv/look/$v | tr , '\n' | grep -xE 'ro|noatime|nouuid|noexec' | sort | tr '\n' ' '; done`)
	if want := "old\nnoatime noexec nouuid ro noatime noexec ro "; got != want {
		t.Errorf("the mounted set shows %q, want %q", got, want)
	}

	g.fails(t, "lvm_snapshot name=look state=absent volumes=/dat", "set_differs")
	if r := g.ok(t, "lvm_snapshot name=look state=absent --check"); !strings.Contains(r.msg(), "would unmount it from /srv/look") {
		t.Errorf("the mounts that go with the set are not named: %s", r)
	}
	if r := g.ok(t, "lvm_snapshot name=look state=absent"); r["changed"] != true {
		t.Errorf("a mounted set was not removed: %s", r)
	}
	g.run(t, "rmdir /srv/look/* /srv/look; echo old > /pccehr/rw-file; sync")
	const none = set + "size=40m state=mounted mountpoint=/srv/look"
	r := g.each(t, none+" mountpoint_create=false", "lvm_snapshot_info name=look", none)
	if r[0].code() != "not_found" || !strings.Contains(r[0].msg(), "/srv/look") || len(r[1].rows("sets")) != 0 {
		t.Errorf("a mount point that is not there: %s\nand a set stayed: %s", r[0], r[1])
	}
	g.run(t, "echo new > /pccehr/rw-file; findmnt -n /srv/look")
	merged := g.ok(t, "lvm_merge name=look services=pccehr start_services=false wait=true")
	got = g.run(t, "cat /pccehr/rw-file; systemctl is-active pccehr; findmnt -n /srv/look; true")
	if got != "old\ninactive" || !strings.Contains(merged.msg(), "left stopped") || merged["state"] != "merged" {
		t.Errorf("after a rollback to a mounted set with start_services=false: %q, %s", got, merged)
	}
	t.Logf("taken, extended, never shrunk, mounted here and there, unmounted, removed while mounted: --check changed nothing " +
		"and each second call said so; rolled back while mounted with the service left stopped")
}

// TestSizesAndPlaces gives each way to say a size to real LVM, and a volume its own mount point and options.
func TestSizesAndPlaces(t *testing.T) {
	playedOn(t, "d13")
	g := guestFor(t)
	g.scratch(t, "true", "lvm_snapshot name=words state=absent >/dev/null; rmdir /srv/own 2>/dev/null; true")
	const free = "vgs --noheadings --units b --nosuffix -o vg_free,vg_size vg00"
	var left, all float64
	if _, err := fmt.Sscan(g.run(t, free), &left, &all); err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	for size, want := range map[string]float64{"10%ORIGIN": 51.2 * mib, "5%FREE": left / 20, "1%VG": all / 100, "50m": 50 * mib} {
		r := g.ok(t, "lvm_snapshot name=words volumes=/pccehr size="+size)
		got, _ := r.rows("snapshots")[0]["cow_bytes"].(float64)
		real := strings.TrimSpace(g.run(t, "lvs --noheadings --units b --nosuffix -o lv_size vg00/pccehr_words; lvm_snapshot name=words state=absent >/dev/null"))
		if real != fmt.Sprintf("%.0f", got) {
			t.Errorf("size=%s: the result says %.0f, LVM %s", size, got, real)
		}
		if got < want-4*mib || got > want+8*mib { // whole extents of 4 MiB, and a share of the snapshot's own metadata
			t.Errorf("size=%s: %.1f MiB, want about %.1f", size, got/mib, want/mib)
		}
	}
	g.run(t, "echo here >/pccehr/rw-file")
	g.ok(t, `lvm_snapshot name=words state=mounted volumes='[{"vg":"vg00","lv":"pccehr","size":"20m","mountpoint":"/srv/own","options":"noexec"}]'`)
	g.run(t, "findmnt -no OPTIONS /srv/own | grep noexec | grep -w ro && grep here /srv/own/rw-file")
	t.Log("percentages of origin, free space and group, and a mount point and options of a volume's own")
}

// TestDeferredToTheNextBoot rolls back volumes that cannot be closed, as the root volume never can.
func TestDeferredToTheNextBoot(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, watched+"\n"+takeAndHarm+"\nsystemd-run -q --unit=rw-keeper --working-directory=/dat sleep infinity",
		"systemctl stop rw-keeper 2>/dev/null; lvm_snapshot state=absent >/dev/null 2>&1\n"+unwatched)
	const merge = rollBoth + " when_busy=defer"
	busy := g.fails(t, rollBoth, "busy")
	r := g.each(t, merge+" --check", merge, merge)
	for i, changed := range []bool{true, true, false} {
		if r[i].failed() || r[i]["changed"] != changed {
			t.Errorf("call %d: want changed: %v, got %s", i, changed, r[i])
		}
	}
	if r[1]["state"] != "deferred" || r[2]["state"] != "deferred" || !strings.Contains(busy.hint(), "rw-keeper.service") {
		t.Errorf("want deferred, and before that the unit that cannot be started again: %s\n%s\n%s", r[1], r[2], busy)
	}
	if got := g.run(t, "cat /dat/marker /pccehr/marker; systemctl is-active rw-keeper pccehr; sync"); got != "lost\nlost\nactive\nactive" {
		t.Errorf("before the boot: %q", got)
	}
	g.cut(t)
	g.holds(t, "kept")
	g.eventually(t, "the end of the merges", `test -z "$(lvs --noheadings -o origin vg00 | tr -d ' \n')" && ! ls -R /etc/systemd/system | grep rewind`, settled)
	if after := g.ok(t, merge); after["state"] != "merged" || after["changed"] != false {
		t.Errorf("after the boot: %s", after)
	}
	g.tidy(t)
	t.Logf("%s; at the boot it was, before anything was mounted: the services started on nothing else, and the boot guard is gone", r[1].msg())
}

// TestDeferredAndLost fills the COW of a deferred rollback before the boot that it waits for: nothing was rolled back, so
// nothing keeps the volume from its mount.
func TestDeferredAndLost(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, "lvm_snapshot name=late volumes=/pccehr size=8m\nsystemd-run -q --unit=rw-keeper --working-directory=/pccehr sleep infinity",
		"systemctl stop rw-keeper 2>/dev/null; rm -f /pccehr/rw-fill; ! lvs vg00/pccehr_late >/dev/null 2>&1 || lvremove -qqy vg00/pccehr_late")
	const merge = "lvm_merge name=late services=pccehr when_busy=defer"
	if r := g.ok(t, merge); r["state"] != "deferred" {
		t.Fatalf("want deferred: %s", r)
	}
	g.eventually(t, "the end of the journey, which would give it up at once", noJourney, 10*time.Second)
	g.run(t, "dd if=/dev/zero of=/pccehr/rw-fill bs=1M count=20 conv=fsync status=none; sync")
	t.Logf("overflowed while it waited: %s", g.run(t, "lvs -a --noheadings -o lv_name,lv_attr,lv_merging,lv_snapshot_invalid vg00; dmsetup status | grep pccehr"))
	g.cut(t)
	g.eventually(t, "the volume in use and the rollback given up",
		"findmnt /pccehr && test -s /pccehr/rw-fill && systemctl is-active pccehr && ! ls -R /etc/systemd/system | grep rewind", settled)
	t.Logf("after the boot: %s", g.run(t, "lvs -a --noheadings -o lv_name,lv_attr,lv_merging,lv_snapshot_invalid vg00; dmsetup status | grep pccehr"))
	if said := g.run(t, "journalctl -b --no-pager -u rewind-guard -u rewind-resume"); !strings.Contains(said, "is given up") || !strings.Contains(said, "lvremove vg00/pccehr_late") {
		t.Errorf("the system's journal does not say what happened: %s", said)
	}
	if again := g.fails(t, merge, "snapshot_invalid"); again["changed"] == true {
		t.Errorf("the same task after the boot: %s", again)
	}
	g.run(t, "lvremove -qqy vg00/pccehr_late && findmnt /pccehr")
	g.tidy(t)
	t.Log("the guard let the volume be mounted as it was, settling closed the record, and lvremove took away what was left")
}

// TestSetIsTakenAgain rehearses: rolled back, and the same set taken again before the services start.
func TestSetIsTakenAgain(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	const seen = `mkdir -p /etc/systemd/system/pccehr.service.d && cat >/etc/systemd/system/pccehr.service.d/seen.conf <<'UNIT'
[Service]
ExecStartPre=/bin/sh -c 'lvs --noheadings -o lv_name,lv_attr --separator / vg00 vg01 >/run/seen'
UNIT
systemctl daemon-reload`
	g.scratch(t, thinPair+"\n"+seen+"\necho old | tee /one/file /two/file >/pccehr/file; sync", `lvm_snapshot state=absent >/dev/null 2>&1
rm -rf /etc/systemd/system/pccehr.service.d /run/seen /pccehr/file; systemctl daemon-reload
`+noThinPair)
	const merge = "lvm_merge services=pccehr resnapshot=true"
	for _, way := range []struct{ name, take, files string }{
		{"thick", "lvm_snapshot volumes=/pccehr size=60m", "/pccehr/file"},
		{"thin", "lvm_snapshot volumes=/one,/two", "/one/file /two/file"},
	} {
		first := g.ok(t, way.take)
		g.run(t, "echo new | tee "+way.files+"; sync")
		if m := g.ok(t, merge+" --check").msg(); strings.Contains(m, "the services wait") != (way.name == "thick") {
			t.Errorf("%s: the check says %q", way.name, m)
		}
		r := g.ok(t, merge)
		got := strings.Fields(g.run(t, "cat "+way.files+"; cat /run/seen"))
		files := len(strings.Fields(way.files))
		if strings.Join(got[:files], " ") != strings.TrimSpace(strings.Repeat("old ", files)) {
			t.Errorf("%s: after the rollback: %v, %s", way.name, got[:files], r)
		}
		var snapshots int
		for _, volume := range got[files:] {
			name, attr, _ := strings.Cut(volume, "/")
			if strings.Contains("OS", attr[:1]) {
				t.Errorf("%s: the service started while %s was merging (%s)", way.name, name, attr)
			}
			if strings.HasSuffix(name, "_snap") {
				snapshots++
			}
		}
		set := g.ok(t, "lvm_snapshot_info name=snap").rows("sets")
		if snapshots != files || len(set) != 1 || set[0]["id"] == first["id"] || set[0]["state"] != "ok" {
			t.Errorf("%s: %d snapshots of the set were there when the service started, want %d: %v", way.name, snapshots, files, set)
		}
		g.ok(t, "lvm_snapshot state=absent")
		t.Logf("%s: rolled back, taken again before the service started: %s", way.name, r.msg())
	}
}
