package rollback

import (
	"context"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// recheck repeats the checks that can have changed while the services stopped: a snapshot may have overflowed, somebody
// may have removed it, and something may have opened a volume. It asks the kernel, which is exact and quick, and LVM
// only about thin snapshots.
func (s *survey) recheck(ctx context.Context) error {
	status, err := s.lvm.Status(ctx)
	if err != nil {
		return err
	}
	info, err := s.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range s.state.Members {
		if info[m.DMName].Open > 0 || info[m.SnapshotDM].Open > 0 {
			errs = append(errs, fault.New(fault.Busy, "%s or its snapshot is still open after the unmount", m.origin()).
				WithHint("dmsetup info -c -o name,open %s %s; lsof /dev/%s; where these show nothing, its file system is "+
					"frozen, as an agent of the hypervisor does: fsfreeze -u DIRECTORY, which is mounted again",
					m.DMName, m.SnapshotDM, m.origin()))
		}
		if m.Thin {
			continue
		}
		if i, ok := info[m.SnapshotDM]; ok && !strings.HasSuffix(i.UUID, strings.ReplaceAll(m.SnapshotID, "-", "")) {
			errs = append(errs, removedFault(m))
			continue
		}
		targets := status[m.SnapshotDM]
		if len(targets) != 1 {
			errs = append(errs, fault.New(fault.SnapshotInvalid, "%s is not active any more", m.snapshot()).
				WithHint("lvs -a %s; lvchange -ay %s", m.VG, m.snapshot()))
			continue
		}
		snap, ok := targets[0].Snapshot()
		if !ok || snap.Lost() {
			errs = append(errs, fault.New(fault.SnapshotInvalid, "%s overflowed while the services stopped", m.snapshot()).
				With("snapshots", []map[string]any{{"snapshot": m.snapshot(), "volume": m.origin(), "state": "invalid"}}).
				WithHint("what it held is lost, so nothing was rolled back; a set: lvm_snapshot state=absent removes it; "+
					"by itself: lvremove %s", m.snapshot()))
			continue
		}
		m.Used = snap.UsedBytes()
		errs = append(errs, m.recheckSiblings(status))
	}
	err = fault.All(errs...)
	if err == nil { // LVM takes longer than the kernel, and awaitClosed repeats the checks again and again
		err = s.recheckThin(ctx)
	}
	return err
}

// recheckThin refuses to merge thin snapshots that somebody has removed (snapshot_invalid). The kernel does not tell:
// most thin snapshots have no device.
func (s *survey) recheckThin(ctx context.Context) error {
	isThin := func(m *Member) bool { return m.Thin }
	if !slices.ContainsFunc(s.state.Members, isThin) {
		return nil
	}
	report, err := s.lvm.Report(ctx)
	errs := []error{err}
	for _, m := range s.state.Members {
		if err != nil || !m.Thin {
			continue
		}
		if v, exists := m.find(report); !exists || v.Name != m.Snapshot {
			errs = append(errs, removedFault(m))
		}
	}
	return fault.All(errs...)
}

// disksLimit is how long the guard waits at boot for the disks of a volume group.
const disksLimit = 90 * time.Second

// awaitDisks waits until LVM finds the volume groups of all members, with all their disks (timeout).
func (s *survey) awaitDisks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, disksLimit)
	defer cancel()
	for {
		report, err := s.lvm.Report(ctx)
		if err != nil {
			return err
		}
		var incomplete []string
		for _, group := range s.state.groups() {
			if g, ok := report.Group(group); !ok || g.Partial {
				incomplete = append(incomplete, group)
			}
		}
		if len(incomplete) == 0 {
			return nil
		}
		select {
		case <-time.After(statusInterval):
		case <-ctx.Done():
			return fault.New(fault.Timeout, "volume group %s did not appear within %s; "+
				"its volumes are not mounted, because their rollback is not finished",
				strings.Join(incomplete, ", "), disksLimit).
				WithHint("bring its disks back and boot again, or run: systemctl start rewind-guard, then mount -a")
		}
	}
}
