package service

import (
	"slices"
	"testing"
	"time"
)

// What systemd starts on a device is found by each of the device's names; targets and devices open nothing.
func TestUnitsOnADevice(t *testing.T) {
	f := newFake()
	f.add("dev-vg00-app.device", "active", "RequiredBy", "app.mount",
		"BoundBy", "systemd-fsck@dev-vg00-app.service", "BoundBy", "x.target")
	f.add(`dev-mapper-vg00\x2dapp.device`, "active", "RequiredBy", "app.mount", "BoundBy", "dev-vg00-app.swap")
	// Nobody has asked for this one yet, so its device does not know it.
	f.add("again.mount", "inactive", "After", "dev-vg00-app.device").file = "/etc/systemd/system/again.mount"
	f.add("other.mount", "inactive", "After", "dev-vg00-other.device").file = "/etc/systemd/system/other.mount"
	got, err := f.systemd(t).OnDevices(t.Context(), []string{"/dev/vg00/app", "/dev/mapper/vg00-app", "/dev/none"})
	want := []string{"app.mount", "systemd-fsck@dev-vg00-app.service", "dev-vg00-app.swap", "again.mount"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

func TestHoldWaitsForAStartUnderWay(t *testing.T) {
	f := newFake()
	s := f.systemd(t)
	f.add("app.mount", "activating")
	held := make(chan error, 1)
	go func() { held <- s.Hold(t.Context(), "rewind-hold-1.service", "Rewind", []string{"app.mount"}) }()
	for watched := false; !watched; time.Sleep(time.Millisecond) {
		select {
		case err := <-held:
			t.Fatalf("it did not wait for the mount that is being made: %v", err)
		default:
		}
		f.mu.Lock()
		watched = len(f.watchers) > 0
		f.mu.Unlock()
	}
	f.mu.Lock()
	f.units["app.mount"].active = "active"
	f.ended("app.mount", "done")
	f.mu.Unlock()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	before := f.sent["rewind-hold-1.service"]
	i := slices.IndexFunc(before, func(p property) bool { return p.name == "Before" })
	if list, _ := before[i].value.([]string); !slices.Contains(list, "app.mount") {
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
		t.Errorf("one that is not there: %v", err)
	}
	if up := f.up(); slices.Contains(up, "rewind-hold-1.service") {
		t.Error(up)
	}
}
