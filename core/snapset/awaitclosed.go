package snapset

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// closeLimit bounds the wait for a device to be closed. When the last process in a private mount namespace has ended,
// the kernel unmounts what was mounted there only some time later.
var closeLimit = 30 * time.Second

// awaitClosed waits until none of the devices is open. After closeLimit it returns without an error: LVM's next command
// then says that a device is open.
func awaitClosed(ctx context.Context, l *lvm.LVM, devices []string) error {
	until := time.Now().Add(closeLimit)
	for {
		info, err := l.Info(ctx)
		if err != nil {
			return err
		}
		open := false
		for _, name := range devices {
			open = open || info[name].Open > 0
		}
		if !open || time.Now().After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond): // device-mapper has no event for a close
		}
	}
}
