package rollback

import (
	"context"
	"slices"
	"time"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

// persistentlyOpen names members and snapshots that the kernel counts as open although they are not mounted and no
// holder of them was found: then the kernel itself uses the device, as DRBD does. known are all holders that were
// found. udev opens every volume for a moment, so persistentlyOpen waits a short while for each to be closed.
func (p *planner) persistentlyOpen(ctx context.Context, known []filesystem.Holder) ([]filesystem.Holder, error) {
	ctx, cancel := context.WithTimeout(ctx, busyLimit)
	defer cancel()
	for {
		open, err := p.openWithoutHolder(context.WithoutCancel(ctx), known)
		if err != nil || len(open) == 0 {
			return nil, err
		}
		select {
		case <-time.After(busyInterval):
		case <-ctx.Done():
			return open, nil
		}
	}
}

// openWithoutHolder is persistentlyOpen without the wait.
func (p *planner) openWithoutHolder(ctx context.Context, known []filesystem.Holder) ([]filesystem.Holder, error) {
	info, err := p.lvm.Info(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := p.server.Host.Mounts() // read after the open counts, because an automount may mount at any moment
	if err != nil {
		return nil, err
	}
	var holders []filesystem.Holder
	for _, m := range p.state.Members {
		for name, path := range map[string]string{m.DMName: "/dev/" + m.origin(), m.SnapshotDM: "/dev/" + m.snapshot()} {
			i := info[name]
			dev := filesystem.NewDev(i.Major, i.Minor)
			holds := func(h filesystem.Holder) bool { return h.Dev == dev }
			crypt := m.Crypt != "" && name == m.DMName
			// The mount of a file system opens its log.
			log := m.LogOf != nil && name == m.DMName && len(filesystem.On(mounts, *m.LogOf)) > 0
			if i.Open == 0 || crypt || log || len(filesystem.On(mounts, dev)) > 0 || slices.ContainsFunc(known, holds) {
				continue
			}
			holders = append(holders, filesystem.Holder{Kind: "device", How: "open", Path: path, Dev: dev})
		}
	}
	return holders, nil
}

// logOf returns the device of the file system, among those of the targets, whose log or journal is on t; nil if there
// is none.
func logOf(t *snapset.Target, targets []snapset.Target) *filesystem.Dev {
	for i := range targets {
		for _, n := range targets[i].Needs {
			if n.LV == t.LV {
				return &targets[i].FS
			}
		}
	}
	return nil
}
