package service

import (
	"maps"
	"slices"
	"testing"
	"time"

	"go.pcc.com/rewind/core/service/servicetest"
)

// A timer that nobody has enabled may be loaded all the same. It must not be returned.
func TestTimersReturnsActiveTimersOnly(t *testing.T) {
	f := servicetest.New()
	f.Add("backup@nightly.timer", "active").Properties = map[string]any{
		"NextElapseUSecRealtime": uint64(1764468000_000000),
	}
	f.Add("backup@once.timer", "active").Properties = map[string]any{"NextElapseUSecRealtime": ^uint64(0)}
	f.Add("backup@off.timer", "inactive")
	due, err := systemdOn(t, f).Timers(t.Context(), "backup@*.timer")
	want := map[string]time.Time{"backup@nightly.timer": time.Unix(1764468000, 0), "backup@once.timer": {}}
	if err != nil || !maps.EqualFunc(due, want, time.Time.Equal) {
		t.Errorf("%v, %v", due, err)
	}
}

func TestFailedReturnsFailedUnitsOfThePattern(t *testing.T) {
	f := servicetest.New()
	f.Add("backup@nightly.service", "failed")
	f.Add("backup@weekly.service", "inactive")
	f.Add("other.service", "failed")
	failed, err := systemdOn(t, f).Failed(t.Context(), "backup@*.service")
	var names []string
	for name := range failed {
		names = append(names, name)
	}
	if err != nil || !slices.Equal(names, []string{"backup@nightly.service"}) {
		t.Errorf("%v, %v", failed, err)
	}
}
