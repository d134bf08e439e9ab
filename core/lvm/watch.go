package lvm

import "time"

// watchEvery is how often a device is looked at: shorter stalls may go unseen.
const watchEvery = 2 * time.Millisecond

// WatchSuspended watches a device until the returned function is called, which
// tells for how long an LVM command made writers wait, at most: the longest time,
// without a break, that the device was suspended or had a table prepared. The
// kernel calls a device suspended only when what was written to it is on the disk
// and the file system is frozen, and writers wait from the beginning of that
// (linux, drivers/md/dm.c, __dm_suspend); LVM prepares the new table of an origin
// just before. It prepares none for a thin snapshot, of which the beginning is
// not seen. Where the device cannot be looked at, the time is 0.
func (l *LVM) WatchSuspended(device string) (longest func() time.Duration) {
	m, err := l.mapper()
	if err != nil {
		return func() time.Duration { return 0 }
	}
	end, found := make(chan struct{}), make(chan time.Duration)
	go func() {
		defer m.Close()
		held, prepared := m.Held(device), m.Prepared(device)
		found <- watch(func() (bool, error) {
			is, err := held()
			if is || err != nil {
				return is, err
			}
			return prepared()
		}, end)
	}()
	return func() time.Duration {
		close(end)
		return <-found
	}
}

func watch(waits func() (bool, error), end <-chan struct{}) (longest time.Duration) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var since time.Time
	for {
		switch is, err := waits(); {
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
