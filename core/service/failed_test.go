package service

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// A timer that nobody has enabled may be loaded all the same. It must not be returned.
func TestTimersReturnsActiveTimersOnly(t *testing.T) {
	f := newFakeBus()
	f.add("backup@nightly.timer", "active").typeProperties = map[string]any{
		"NextElapseUSecRealtime": uint64(1764468000_000000),
	}
	f.add("backup@once.timer", "active").typeProperties = map[string]any{"NextElapseUSecRealtime": ^uint64(0)}
	f.add("backup@off.timer", "inactive")
	due, err := f.systemd(t).Timers(t.Context(), "backup@*.timer")
	want := map[string]time.Time{"backup@nightly.timer": time.Unix(1764468000, 0), "backup@once.timer": {}}
	if err != nil || !maps.EqualFunc(due, want, time.Time.Equal) {
		t.Errorf("%v, %v", due, err)
	}
}

func TestFailedReturnsFailedUnitsOfThePattern(t *testing.T) {
	f := newFakeBus()
	f.add("backup@nightly.service", "failed")
	f.add("backup@weekly.service", "inactive")
	f.add("other.service", "failed")
	failed, err := f.systemd(t).Failed(t.Context(), "backup@*.service")
	var names []string
	for name := range failed {
		names = append(names, name)
	}
	if err != nil || !slices.Equal(names, []string{"backup@nightly.service"}) {
		t.Errorf("%v, %v", failed, err)
	}
}
