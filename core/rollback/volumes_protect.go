package rollback

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// protect makes those members read-only that are closed, for whatever opens or mounts them from now on. LVM checks that
// a volume is closed, and begins the merge some moments later. A file system that is mounted in between has cached
// blocks from before the merge, and could write them over blocks that were rolled back. Early in a boot protect does
// nothing, because nothing mounts members yet.
func (v *volumes) protect(ctx context.Context, members []*Member) error {
	if v.systemd == nil {
		return nil
	}
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if i, ok := info[m.DMName]; ok && m.Protect && i.Open == 0 {
			if err := v.server.Host.WriteProtect(filesystem.NewDev(i.Major, i.Minor), true); err != nil {
				return err
			}
		}
	}
	return nil
}

// unprotect makes the protected members writable again. They were closed when they were protected, so every mount of
// them was made since, and is unmounted. A member that is not protected any more is left alone: an earlier run has made
// it writable, and its mounts are in use.
func (v *volumes) unprotect(ctx context.Context) error {
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var members []*Member
	var devs []filesystem.Dev
	for _, m := range v.state.Members {
		i, ok := info[m.DMName]
		if !ok || !m.Protect {
			continue
		}
		dev := filesystem.NewDev(i.Major, i.Minor)
		isProtected, err := v.server.Host.WriteProtected(dev)
		if err != nil && !errors.Is(err, fault.NotFound) { // not_found: LVM replaces the device of a thin volume
			return err
		}
		if isProtected {
			members, devs = append(members, m), append(devs, dev)
		}
	}
	if len(members) == 0 {
		return nil
	}
	if err := fault.All(v.unmountNew(ctx, members), v.closeCrypts(ctx, members)); err != nil {
		return fault.New(fault.Of(err).Code, "%s stay read-only and the services down until they are closed: %w",
			joinSorted(originNames(members)), err).
			WithHint("end what holds them, and run the same task again: it goes on from here")
	}
	for _, dev := range devs {
		if err := v.server.Host.WriteProtect(dev, false); err != nil {
			return err
		}
	}
	return nil
}
