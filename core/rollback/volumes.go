package rollback

import (
	"context"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// volumes takes the members out of use and back into use: it unmounts, closes and protects them, and mounts them again.
type volumes struct {
	*base
	steps  *stepRecorder
	holds  *unitHolds
	survey *survey
}

// devices returns the devices of members, with those of their LUKS mappings, and the devices of their snapshots.
func (v *volumes) devices(ctx context.Context, members []*Member) (volumes, snapshots []filesystem.Dev, err error) {
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range members {
		volumeDevs, snapshotDevs := m.devices(info)
		volumes, snapshots = append(volumes, volumeDevs...), append(snapshots, snapshotDevs...)
	}
	return volumes, snapshots, nil
}

// devices returns the existing devices of a member, with that of its LUKS mapping, and the device of its snapshot.
func (m *Member) devices(info map[string]lvm.Info) (volumes, snapshots []filesystem.Dev) {
	add := func(to *[]filesystem.Dev, name string) {
		if i, ok := info[name]; ok && name != "" {
			*to = append(*to, filesystem.NewDev(i.Major, i.Minor))
		}
	}
	add(&volumes, m.DMName)
	add(&volumes, m.Crypt)
	add(&snapshots, m.SnapshotDM)
	return volumes, snapshots
}

// withHolders adds to an error what holds the volumes open now.
func (v *volumes) withHolders(ctx context.Context, cause error) error {
	volumes, snapshots, err := v.devices(ctx, v.state.Members)
	if err != nil {
		return cause
	}
	devs := slices.Concat(volumes, snapshots)
	mounts, err := v.server.Host.Mounts()
	if err != nil {
		return cause
	}
	var ownMounts []filesystem.Mount
	for _, dev := range devs {
		ownMounts = append(ownMounts, filesystem.On(mounts, dev)...)
	}
	holders, err := v.server.Host.Holders(ctx, devs, ownMounts)
	if err != nil {
		return cause
	}
	return fault.All(v.newHoldersFault(holders, cause), cause)
}

// newHoldersFault names the holders that are there although an earlier check found none, or all were ended. If there
// are none, it says where they were looked for.
func (v *volumes) newHoldersFault(holders []filesystem.Holder, cause error) error {
	const advice = "something opens files there again and again: stop what does (name its unit in services), " +
		"then run the same again"
	if len(holders) == 0 {
		f := fault.New(fault.Busy, "nothing is found that still holds a volume open; looked at were %s",
			filesystem.LookedAt)
		if fault.Of(cause).Hint != "" {
			return f
		}
		return f.WithHint(advice + "; if it stays so, the kernel itself holds it: umount and dmsetup info show it")
	}
	f := fault.Of(busyFault(holders, nil))
	if v.StopHolders {
		f = f.WithHint("holders=stop had ended what was there; " + advice)
	}
	return f
}
