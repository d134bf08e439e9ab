package lvm

import (
	"testing"
	"time"
)

// A writer waits for one suspend only, so the times of two suspends are not added up, nor is the time between them.
func TestLongestTrueReturnsTheLongestSuspend(t *testing.T) {
	for name, c := range map[string]struct {
		looks   []bool
		atLeast time.Duration // how long the looks at the longest suspend take at least
	}{
		"never":        {[]bool{false, false, false}, 0},
		"for one look": {[]bool{false, true, false}, 0},
		"twice":        {[]bool{true, true, false, true, true, true, false}, 2 * lookTime},
	} {
		stop := make(chan struct{})
		count := 0
		got := longestTrue(func() (bool, error) {
			time.Sleep(lookTime)
			suspended := count < len(c.looks) && c.looks[count]
			if count++; count == len(c.looks) {
				close(stop)
			}
			return suspended, nil
		}, stop)
		if got < c.atLeast || c.atLeast == 0 && got != 0 {
			t.Errorf("%s: suspended for %v, want at least %v", name, got, c.atLeast)
		}
	}
}

// lookTime is how long one look at the device takes.
const lookTime = 10 * time.Millisecond
