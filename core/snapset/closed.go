package snapset

import (
	"context"
	"fmt"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// sysfs is where sysfs is mounted. The kernel shows there how much was written to each block device. Tests have a
// directory of their own.
var sysfs = "/sys"

// closedMembers returns the members that have no device. LVM makes their snapshots before the set's instant, and nobody
// may write to them in between.
func (p *Plan) closedMembers() []*Member {
	if p.Each || !p.hasSeveralMembers() {
		return nil
	}
	return p.membersWhere(func(m *Member) bool { return m.Method == Closed })
}

// closedWriteCounts returns the write counters of each closed member as they are now.
func (t *taker) closedWriteCounts(ctx context.Context) ([]string, error) {
	members := t.plan.closedMembers()
	if len(members) == 0 {
		return nil, nil
	}
	info, err := t.lvm.Info(ctx)
	var counts []string
	for _, m := range members {
		counts = append(counts, writeCounters(info[m.DMName]))
	}
	return counts, err
}

// writeCounters returns the kernel's counts of sectors that were written to a device or discarded on it, as a text to
// be compared. It is empty if there is no such device, or if both counts are 0.
func writeCounters(device lvm.Info) string {
	const write, discard = 6, 13 // places in /sys/dev/block/*/stat, from 0
	counters := ""
	for i, value := range filesystem.Counters(sysfs, filesystem.NewDev(device.Major, device.Minor)) {
		if (i == write || i == discard) && value != "0" {
			counters += fmt.Sprint(i, ": ", value, " ")
		}
	}
	return counters
}

// checkStayedClosed fails with busy if somebody opened a closed member or wrote to it after its snapshot was made: that
// snapshot would show an earlier moment than the others. It waits for udev, which opens a device for a moment when it
// has changed.
func (t *taker) checkStayedClosed(ctx context.Context, before []string) error {
	members := t.plan.closedMembers()
	if len(members) == 0 {
		return nil
	}
	var devices []string
	for _, m := range members {
		devices = append(devices, m.DMName)
	}
	if err := awaitClosed(ctx, t.lvm, devices); err != nil {
		return err
	}
	info, err := t.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i, m := range members {
		if device := info[m.DMName]; device.Open > 0 || writeCounters(device) != before[i] {
			errs = append(errs, fault.New(fault.Busy, "%s was inactive, and somebody opened it or wrote to it while the set "+
				"was taken: its snapshot is of an earlier moment than the set", m.origin()).
				WithHint("take the set again: what is active is held with the others"))
		}
	}
	return fault.All(errs...)
}
