package service

import (
	"slices"
	"testing"
)

func TestFailed(t *testing.T) {
	f := newFake()
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
