package rollback

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// writable says that a volume is active and can be written to.
func (w *walk) writable(v *lvm.Volume) (bool, error) {
	if !v.Active {
		return false, nil
	}
	readOnly, err := w.protected(filesystem.NewDev(v.Major, v.Minor))
	return !readOnly, err
}

// protect makes those of the members that are closed read-only to whoever opens or mounts them from now on. LVM looks
// whether a volume is closed, and merges some moments later: what is mounted in between has read what is rolled back
// under it, and would write that over what was rolled back. Early in a boot nobody is there to mount anything.
func (w *walk) protect(ctx context.Context, members []*Member) error {
	if w.systemd == nil {
		return nil
	}
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if i, ok := info[m.DMName]; ok && m.Protect && i.Open == 0 {
			if err := w.writeProtect(filesystem.NewDev(i.Major, i.Minor), true); err != nil {
				return err
			}
		}
	}
	return nil
}

// unprotect lets the protected members be written to again. They were closed when they were protected, so whatever is
// mounted of them came since, and is unmounted. A member that is not protected any more is left alone: an earlier run
// has done all this, and what is mounted of it is in use.
func (w *walk) unprotect(ctx context.Context) error {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var members []*Member
	var devs []filesystem.Dev
	for _, m := range w.state.Members {
		i, ok := info[m.DMName]
		if !ok || !m.Protect {
			continue
		}
		dev := filesystem.NewDev(i.Major, i.Minor)
		is, err := w.protected(dev)
		if err != nil && !errors.Is(err, fault.NotFound) { // LVM makes the device of a thin volume anew
			return err
		}
		if is {
			members, devs = append(members, m), append(devs, dev)
		}
	}
	if len(members) == 0 {
		return nil
	}
	if err := fault.All(w.evict(ctx, members), w.closeCrypts(ctx, members)); err != nil {
		return fault.New(fault.Of(err).Code, "%s stay read-only and the services down until they are let go: %w",
			join(origins(members)), err).WithHint("end what holds them, and run the same task again: it goes on from here")
	}
	for _, dev := range devs {
		if err := w.writeProtect(dev, false); err != nil {
			return err
		}
	}
	return nil
}
