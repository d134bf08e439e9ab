package lvm

import "time"

// watchInterval is the time between two looks at a device. Shorter suspends may be missed.
const watchInterval = 2 * time.Millisecond

// WatchSuspended watches a device while an LVM command takes a snapshot of it. The returned function ends the watch,
// and returns an upper bound of how long the command made writers wait: the longest time without a break in which the
// device was suspended or had a prepared table. It is 0 if the device cannot be watched. It must be called once.
//
// The prepared table counts because writers wait from the beginning of a suspend, but the kernel calls the device
// suspended only when what was written to it is on the disk and the file system is frozen (linux, drivers/md/dm.c,
// __dm_suspend). LVM prepares the new table of an origin just before the suspend. For a thin snapshot it prepares none,
// so the beginning of that suspend is missed.
func (l *LVM) WatchSuspended(device string) (longest func() time.Duration) {
	m, err := l.openMapper()
	if err != nil {
		return func() time.Duration { return 0 }
	}
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		defer m.Close()
		isSuspended, isPrepared := m.Held(device), m.Prepared(device)
		result <- longestTrue(func() (bool, error) {
			suspended, err := isSuspended()
			if suspended || err != nil {
				return suspended, err
			}
			return isPrepared()
		}, stop)
	}()
	return func() time.Duration {
		close(stop)
		return <-result
	}
}

// longestTrue calls holds again and again until stop is closed, and returns the longest time in which it was true
// without a break. An error counts as false.
func longestTrue(holds func() (bool, error), stop <-chan struct{}) (longest time.Duration) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var since time.Time
	for {
		switch isTrue, err := holds(); {
		case !isTrue || err != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		default:
			longest = max(longest, time.Since(since))
		}
		select {
		case <-stop:
			return longest
		case <-tick.C:
		}
	}
}
