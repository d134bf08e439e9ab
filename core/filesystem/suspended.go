package filesystem

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long a mount waits for a device that another program has suspended, and how often it tries again.
const (
	suspendedLimit = 2 * time.Minute
	suspendedPause = 50 * time.Millisecond
)

// mountWhenResumed calls mount again for as long as it fails because the device source is suspended. The kernel refuses
// to mount a suspended device (EBUSY, "Can't mount, blockdev is frozen"; linux, fs/super.c), and LVM suspends an origin
// for a moment whenever somebody makes, extends or removes one of its snapshots: dmeventd does so by itself when a
// snapshot is nearly full. A device that is busy for another reason, such as another device on it, is not waited for.
// mountWhenResumed gives up at the end of ctx, or after suspendedLimit.
func mountWhenResumed(ctx context.Context, source string, mount func() error) error {
	var err error
	for start := time.Now(); time.Since(start) < suspendedLimit; {
		if err = mount(); !isBusyError(err) || hasExclusiveHolder(source) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(suspendedPause):
		}
	}
	return err
}

// busyText is what mount(8) prints for EBUSY.
const busyText = "already mounted or mount point busy"

// isBusyError is true for the error EBUSY of mount(2) or mount(8).
func isBusyError(err error) bool {
	return errors.Is(err, unix.EBUSY) || err != nil && strings.Contains(err.Error(), busyText)
}

// hasExclusiveHolder is true if something uses the device at path as its own, such as a file system, a device on top of
// it or a swap area, or if that cannot be found out. A suspended device that nothing uses has no such holder.
func hasExclusiveHolder(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != nil
}
