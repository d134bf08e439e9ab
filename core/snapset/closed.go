package snapset

import (
	"context"
	"fmt"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// sysfs has what the kernel counts of each block device. Tests have a directory of their own.
var sysfs = "/sys"

// closedMembers are those whose snapshots LVM makes before the instant, because they have no device.
func (p *Plan) closedMembers() []*Member {
	if p.Each || !p.late() {
		return nil
	}
	return p.pick(func(m *Member) bool { return m.Method == Closed })
}

// written says how much has been written by now to each of the members that are closed.
func (t *taker) written(ctx context.Context) ([]string, error) {
	members := t.plan.closedMembers()
	if len(members) == 0 {
		return nil, nil
	}
	info, err := t.lvm.Info(ctx)
	var written []string
	for _, m := range members {
		written = append(written, sectors(info[m.DMName]))
	}
	return written, err
}

// sectors are those that were written to a device or discarded on it; none where there is no device.
func sectors(device lvm.Info) string {
	const write, discard = 6, 13
	count := ""
	for i, word := range filesystem.Counters(sysfs, filesystem.NewDev(device.Major, device.Minor)) {
		if (i == write || i == discard) && word != "0" {
			count += fmt.Sprint(i, ": ", word, " ")
		}
	}
	return count
}

// stayedClosed refuses a set of which somebody opened a member, or wrote to it, after its snapshot was made: that is of
// an earlier moment than the others. udev, which opens what changed for a moment, is waited for.
func (t *taker) stayedClosed(ctx context.Context, before []string) error {
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
	var wrong []error
	for i, m := range members {
		if device := info[m.DMName]; device.Open > 0 || sectors(device) != before[i] {
			wrong = append(wrong, fault.New(fault.Busy, "%s was inactive, and somebody opened it or wrote to it while the set "+
				"was taken: its snapshot is of an earlier moment than the set", m.origin()).
				WithHint("take the set again: what is active is held with the others"))
		}
	}
	return fault.All(wrong...)
}
