package service

import (
	"slices"
	"testing"
)

func TestAfterMountsDividesUnits(t *testing.T) {
	f := newFakeBus()
	f.add("app.service", "active", "After", "system.slice", "After", "basic.target")
	f.add("app.socket", "active", "After", "sysinit.target")
	f.add("early.service", "active", "After", "systemd-udevd.service")
	units := []string{"app.socket", "app.service", "early.service", "none.service"}
	late, early, err := f.systemd(t).AfterMounts(t.Context(), units)
	if err != nil || !slices.Equal(late, units[:2]) || !slices.Equal(early, units[2:3]) {
		t.Errorf("late %q, early %q, %v", late, early, err)
	}
}

func TestFscksNamesEachCheckOnce(t *testing.T) {
	f := newFakeBus()
	const check = `systemd-fsck@dev-vg00-dat.service`
	f.add("dat.mount", "active", "After", "local-fs-pre.target", "After", check, "Requires", check)
	f.add("srv.mount", "active", "After", "local-fs-pre.target")
	got, err := f.systemd(t).FileSystemChecks(t.Context(), []string{"dat.mount", "srv.mount", "none.mount"})
	if err != nil || !slices.Equal(got, []string{check}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Reading all files again takes time. It is not needed if systemd has not loaded the unit.
func TestForgetReloadsOnlyForALoadedUnit(t *testing.T) {
	f := newFakeBus()
	s := f.systemd(t)
	if err := s.Forget(t.Context(), "rewind-guard.service"); err != nil || len(f.log) != 0 {
		t.Errorf("not loaded: %v, %q", err, f.log)
	}
	f.add("rewind-guard.service", "active")
	if err := s.Forget(t.Context(), "rewind-guard.service"); err != nil ||
		!slices.Equal(f.log, []string{"reload", "stop rewind-guard.service"}) {
		t.Errorf("loaded: %v, %q", err, f.log)
	}
}

// A mount that systemd knows only from the kernel's mount table and a transient mount do not exist after the next boot.
func TestGoneAtBoot(t *testing.T) {
	f := newFakeBus()
	f.add("dat.mount", "active").fragmentPath = "/run/systemd/generator/dat.mount"
	f.add("script.mount", "active")
	made := f.add("moment.mount", "active")
	made.fragmentPath, made.flags["Transient"] = "/run/systemd/transient/moment.mount", true
	for name, want := range map[string]bool{"dat.mount": false, "script.mount": true, "moment.mount": true} {
		if gone, err := f.systemd(t).GoneAtBoot(t.Context(), name); err != nil || gone != want {
			t.Errorf("%s: %v, %v", name, gone, err)
		}
	}
}
