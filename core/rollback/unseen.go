package rollback

import (
	"context"
	"slices"
	"time"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

// unseen names members and snapshots that the kernel counts as open although they are not mounted and nothing was found
// that holds them: the kernel itself does, as DRBD does. known are all that was found.
// udev opens every volume for a moment, so a short while is waited for the count to go back.
func (w *walk) unseen(ctx context.Context, known []filesystem.Holder) ([]filesystem.Holder, error) {
	ctx, cancel := context.WithTimeout(ctx, letLimit)
	defer cancel()
	for {
		open, err := w.openUnseen(context.WithoutCancel(ctx), known, filesystem.Mounts)
		if err != nil || len(open) == 0 {
			return nil, err
		}
		select {
		case <-time.After(letTick):
		case <-ctx.Done():
			return open, nil
		}
	}
}

func (w *walk) openUnseen(
	ctx context.Context, known []filesystem.Holder, table func() ([]filesystem.Mount, error),
) ([]filesystem.Holder, error) {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := table() // after the count: an automount may mount at any moment
	if err != nil {
		return nil, err
	}
	var out []filesystem.Holder
	for _, m := range w.state.Members {
		for name, path := range map[string]string{m.DMName: "/dev/" + m.origin(), m.SnapshotDM: "/dev/" + m.snapshot()} {
			i := info[name]
			dev := filesystem.NewDev(i.Major, i.Minor)
			holds := func(h filesystem.Holder) bool { return h.Dev == dev }
			crypt := m.Crypt != "" && name == m.DMName
			log := m.LogOf != nil && name == m.DMName && len(filesystem.On(mounts, *m.LogOf)) > 0 // that mount opens it
			if i.Open == 0 || crypt || log || len(filesystem.On(mounts, dev)) > 0 || slices.ContainsFunc(known, holds) {
				continue
			}
			out = append(out, filesystem.Holder{Kind: "device", How: "open", Path: path, Dev: dev})
		}
	}
	return out, nil
}

// logOf is the device of the target's file system whose log or journal t holds; nil if it holds none.
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
