package service

import (
	"slices"
	"testing"

	"go.pcc.com/rewind/core/service/servicetest"
)

func TestAfterMountsDividesUnits(t *testing.T) {
	f := servicetest.New()
	f.Add("app.service", "active", "After", "system.slice", "After", "basic.target")
	f.Add("app.socket", "active", "After", "sysinit.target")
	f.Add("early.service", "active", "After", "systemd-udevd.service").NoDefaults = true
	units := []string{"app.socket", "app.service", "early.service", "none.service"}
	late, early, err := systemdOn(t, f).AfterMounts(t.Context(), units)
	if err != nil || !slices.Equal(late, units[:2]) || !slices.Equal(early, units[2:3]) {
		t.Errorf("late %q, early %q, %v", late, early, err)
	}
}

func TestFscksNamesEachCheckOnce(t *testing.T) {
	f := servicetest.New()
	const check = `systemd-fsck@dev-vg00-dat.service`
	f.Add("dat.mount", "active", "After", "local-fs-pre.target", "After", check, "Requires", check)
	f.Add("srv.mount", "active", "After", "local-fs-pre.target")
	got, err := systemdOn(t, f).FileSystemChecks(t.Context(), []string{"dat.mount", "srv.mount", "none.mount"})
	if err != nil || !slices.Equal(got, []string{check}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Reading all files again takes time. It is not needed if systemd has not loaded the unit.
func TestForgetReloadsOnlyForALoadedUnit(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	if err := s.Forget(t.Context(), "rewind-guard.service"); err != nil || len(f.Log()) != 0 {
		t.Errorf("not loaded: %v, %q", err, f.Log())
	}
	f.Add("rewind-guard.service", "active")
	if err := s.Forget(t.Context(), "rewind-guard.service"); err != nil ||
		!slices.Equal(f.Log(), []string{"reload", "stop rewind-guard.service"}) {
		t.Errorf("loaded: %v, %q", err, f.Log())
	}
}

// A mount that systemd knows only from the kernel's mount table and a transient mount do not exist after the next boot.
func TestGoneAtBoot(t *testing.T) {
	f := servicetest.New()
	f.Add("dat.mount", "active").FragmentPath = "/run/systemd/generator/dat.mount"
	f.Add("script.mount", "active")
	made := f.Add("moment.mount", "active")
	made.FragmentPath, made.Flags["Transient"] = "/run/systemd/transient/moment.mount", true
	for name, want := range map[string]bool{"dat.mount": false, "script.mount": true, "moment.mount": true} {
		if gone, err := systemdOn(t, f).GoneAtBoot(t.Context(), name); err != nil || gone != want {
			t.Errorf("%s: %v, %v", name, gone, err)
		}
	}
}
