package lvm

import (
	"testing"
	"time"
)

// A writer waits for one suspend: two that follow each other are not added up, and what is not suspended is no wait.
func TestTheLongestSuspendIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		seen []bool
		long time.Duration // how long the looks take during which the device is suspended, at least
	}{
		"never":      {[]bool{false, false, false}, 0},
		"for a look": {[]bool{false, true, false}, 0},
		"twice":      {[]bool{true, true, false, true, true, true, false}, 2 * look},
	} {
		end := make(chan struct{})
		looks := 0
		got := watch(func() (bool, error) {
			time.Sleep(look)
			is := looks < len(c.seen) && c.seen[looks]
			if looks++; looks == len(c.seen) {
				close(end)
			}
			return is, nil
		}, end)
		if got < c.long || c.long == 0 && got != 0 {
			t.Errorf("%s: suspended for %v, want at least %v", name, got, c.long)
		}
	}
}

const look = 10 * time.Millisecond
