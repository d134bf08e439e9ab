package service

import (
	"slices"
	"testing"
	"time"

	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/servicetest"
)

// Units on a device are found by each path of the device. Targets and devices are left out, because they open nothing.
func TestOnDevicesFindsUnitsByEachPath(t *testing.T) {
	f := servicetest.New()
	f.Add("dev-vg00-app.device", "active", "RequiredBy", "app.mount",
		"BoundBy", "systemd-fsck@dev-vg00-app.service", "BoundBy", "x.target")
	f.Add(`dev-mapper-vg00\x2dapp.device`, "active", "RequiredBy", "app.mount", "BoundBy", "dev-vg00-app.swap")
	// systemd has not loaded this mount yet, so the properties of the device do not name it.
	f.Add("again.mount", "inactive", "After", "dev-vg00-app.device").FragmentPath = "/etc/systemd/system/again.mount"
	f.Add("other.mount", "inactive", "After", "dev-vg00-other.device").FragmentPath = "/etc/systemd/system/other.mount"
	got, err := systemdOn(t, f).OnDevices(t.Context(), []string{"/dev/vg00/app", "/dev/mapper/vg00-app", "/dev/none"})
	want := []string{"app.mount", "systemd-fsck@dev-vg00-app.service", "dev-vg00-app.swap", "again.mount"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

func TestHoldWaitsForAStartUnderWay(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	f.Add("app.mount", "activating")
	held := make(chan error, 1)
	go func() { held <- s.Hold(t.Context(), "rewind-hold-1.service", "Rewind", []string{"app.mount"}) }()
	for watched := false; !watched; time.Sleep(time.Millisecond) {
		select {
		case err := <-held:
			t.Fatalf("it did not wait for the mount that is being made: %v", err)
		default:
		}
		watched = f.Watchers() > 0
	}
	f.Change("app.mount", func(u *servicetest.Unit) { u.Active = "active" })
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	before := f.Settings("rewind-hold-1.service")
	i := slices.IndexFunc(before, func(p bus.Setting) bool { return p.Name == "Before" })
	if list, _ := before[i].Value.([]string); !slices.Contains(list, "app.mount") {
		t.Errorf("it is started before %v", list)
	}
	if err := s.Hold(t.Context(), "rewind-hold-1.service", "Rewind", []string{"app.mount"}); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for range 2 {
		if err := s.Release(t.Context(), "rewind-hold-1.service"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Release(t.Context(), "rewind-hold-2.service"); err != nil {
		t.Errorf("release of a hold that does not exist: %v", err)
	}
	if up := f.Up(); slices.Contains(up, "rewind-hold-1.service") {
		t.Error(up)
	}
}
