package lvm

import "time"

// watchEvery is how often a device is looked at: shorter stalls may go unseen.
const watchEvery = 2 * time.Millisecond

// WatchSuspended watches a device until the returned function is called, which
// tells the longest time that it was seen suspended without a break: so long a
// writer waited at least. Where it cannot be looked at, that is 0.
func (l *LVM) WatchSuspended(device string) (longest func() time.Duration) {
	m, err := l.mapper()
	if err != nil {
		return func() time.Duration { return 0 }
	}
	end, found := make(chan struct{}), make(chan time.Duration)
	go func() {
		defer m.Close()
		found <- watch(m.Held(device), end)
	}()
	return func() time.Duration {
		close(end)
		return <-found
	}
}

func watch(suspended func() (bool, error), end <-chan struct{}) (longest time.Duration) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var since time.Time
	for {
		switch is, err := suspended(); {
		case !is || err != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		default:
			longest = max(longest, time.Since(since))
		}
		select {
		case <-end:
			return longest
		case <-tick.C:
		}
	}
}
