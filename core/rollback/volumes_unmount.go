package rollback

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

const (
	// busyLimit bounds the wait for programs that open a file system for a moment, as monitoring programs do.
	busyLimit = 5 * time.Second
	// closeLimit bounds the wait until a device is closed from which nothing is mounted any more. systemd may have begun a
	// mount of it before it was told to wait, and udev opens a device when it is closed. On a busy server each of the two
	// takes seconds.
	closeLimit = 30 * time.Second
	// busyInterval is how often an unmount is tried during these waits: the kernel has no event that says that a mount is
	// not in use any more.
	busyInterval = 20 * time.Millisecond
)

// unmount keeps systemd from mounting the members, unmounts everything in the reverse order of the mounts, and closes
// the LUKS mappings.
func (v *volumes) unmount(ctx context.Context) error {
	if err := v.holds.hold(ctx); err != nil {
		return err
	}
	added, err := v.addNewMounts(ctx, v.state.Members)
	if err != nil {
		return err
	}
	if len(added) > 0 {
		if err := v.steps.record(stepUnmounting, v.state); err != nil {
			return err
		}
	}
	// The snapshots' mounts are unmounted first, because a snapshot may be mounted inside a member.
	specs := append(slices.Clone(v.state.Mounts), v.state.SetMounts...)
	if err := v.unmountAll(ctx, specs, v.state.Members); err != nil {
		return err
	}
	return v.closeCrypts(ctx, v.state.Members)
}

// awaitClosed waits until no member and no snapshot is open any more, and then checks everything again. It unmounts
// what is mounted during the wait, again and again: a mount that was under way at one attempt may be there only at the
// next.
func (v *volumes) awaitClosed(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	for {
		err := v.survey.recheck(ctx)
		if !errors.Is(err, fault.Busy) {
			return err
		}
		if limited.Err() != nil {
			return v.withHolders(ctx, err)
		}
		if err := v.unmountNew(ctx, v.state.Members); err != nil {
			return err
		}
		select {
		case <-time.After(busyInterval):
		case <-limited.Done():
		}
	}
}

// unmountAll makes the unmounts in the reverse order of specs. A mount point where no device of these members is
// mounted is left alone.
func (v *volumes) unmountAll(ctx context.Context, specs []filesystem.MountSpec, members []*Member) error {
	volumes, snapshots, err := v.devices(ctx, members)
	if err != nil {
		return err
	}
	for _, spec := range slices.Backward(specs) {
		if err := v.unmountOne(ctx, spec.Point, slices.Concat(volumes, snapshots)); err != nil {
			return v.withHolders(ctx, err)
		}
	}
	return nil
}

// unmountNew unmounts mounts of members that were made since the members were to be closed, by hand or by a unit that
// was not known, and keeps systemd from making them again. Early in a boot only mounts that are not in the journal are
// unmounted: a mount that is in the journal, such as /, is in use.
func (v *volumes) unmountNew(ctx context.Context, members []*Member) error {
	specs, err := v.addNewMounts(ctx, members)
	if err != nil {
		return err
	}
	if len(specs) > 0 {
		v.steps.enter(v.entry().Step)
	}
	for _, spec := range specs {
		v.warnings = append(v.warnings, spec.Point+" was mounted while the rollback was under way, and unmounted for it")
	}
	if v.systemd != nil {
		specs = slices.Concat(v.state.Mounts, v.state.SetMounts)
	}
	return v.unmountAll(ctx, specs, members)
}

// addNewMounts adds to the state the mounts of whole members and of their snapshots that were made since the check, by
// an automount or by hand. Their units are held too, and undo and the last steps make these mounts again like the
// others. It returns the mounts that it added.
func (v *volumes) addNewMounts(ctx context.Context, members []*Member) (added []filesystem.MountSpec, err error) {
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return nil, err
	}
	memberOf := map[filesystem.Dev]*Member{}
	var volumes, snapshots []filesystem.Dev
	for _, m := range members {
		volumeDevs, snapshotDevs := m.devices(info)
		for _, dev := range volumeDevs {
			memberOf[dev] = m
		}
		volumes, snapshots = append(volumes, volumeDevs...), append(snapshots, snapshotDevs...)
	}
	mounts, err := v.server.Host.Mounts()
	if err != nil {
		return nil, err
	}
	fstab, err := v.server.Host.Fstab()
	if err != nil {
		return nil, err
	}
	known := slices.Concat(v.state.Mounts, v.state.SetMounts)
	for _, m := range unknownMounts(mounts, known, volumes) {
		added = append(added, v.newMountSpec(m, memberOf[m.Dev], info, fstab))
	}
	v.state.Mounts = append(v.state.Mounts, added...)
	for _, m := range unknownMounts(mounts, known, snapshots) {
		v.state.SetMounts = append(v.state.SetMounts, mountSpecOf(m, nil, nil))
		added = append(added, mountSpecOf(m, nil, nil))
	}
	if len(added) == 0 {
		return nil, nil
	}
	return added, v.holds.holdMounts(ctx, mountPoints(added))
}

// newMountSpec returns how a mount of a member that was made since the check is made again. A member that Rewind has
// made read-only could only be mounted read-only; such a mount gets the read-write state of the other mounts of the
// member.
func (v *volumes) newMountSpec(
	m filesystem.Mount, member *Member, info map[string]lvm.Info, fstab []filesystem.FstabEntry,
) filesystem.MountSpec {
	if member.Crypt == "" {
		m.Source = "/dev/" + member.origin() // as the other mounts of the member have it
	}
	spec := mountSpecOf(m, nil, fstab)
	lv := info[member.DMName]
	isProtected, err := v.server.Host.WriteProtected(filesystem.NewDev(lv.Major, lv.Minor))
	if err != nil || !isProtected || !member.Protect {
		return spec
	}
	spec.Options[0] = "rw"
	for _, other := range v.state.Mounts {
		if other.Source == spec.Source && other.Bind == "" {
			spec.Options[0] = other.Options[0]
			break
		}
	}
	return spec
}

// unknownMounts returns the mounts of whole file systems on devs whose mount points are not among the known ones.
func unknownMounts(mounts []filesystem.Mount, known []filesystem.MountSpec, devs []filesystem.Dev) []filesystem.Mount {
	return slices.DeleteFunc(slices.Clone(mounts), func(m filesystem.Mount) bool {
		return m.Root != "/" || !slices.Contains(devs, m.Dev) || slices.Contains(mountPoints(known), m.Point)
	})
}

// unmountOne unmounts what is visible at point, if it is on one of the devices. It waits for programs that use the
// mount only for a moment.
func (v *volumes) unmountOne(ctx context.Context, point string, devs []filesystem.Dev) error {
	limited, cancel := context.WithTimeout(ctx, busyLimit)
	defer cancel()
	for {
		err := v.server.Host.UnmountOf(ctx, point, devs...)
		if !errors.Is(err, fault.Busy) {
			return err
		}
		select {
		case <-time.After(busyInterval):
		case <-limited.Done():
			return err
		}
	}
}
