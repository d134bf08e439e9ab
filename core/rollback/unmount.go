package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
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

// writeOut has the members' file systems write dirty pages out while the services still run. Otherwise the unmount
// would write them while the services are stopped. If that takes longer than half of the timeout, the rollback is not
// begun (timeout).
func (rb *rollback) writeOut(ctx context.Context) error {
	half := rb.Timeout / 2
	rb.run.Progress("writing out", -1)
	notWritten := rb.server.Host.WriteOut(ctx, mountPoints(rb.state.Mounts), half)
	if len(notWritten) == 0 {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Interrupted, "no service was stopped: %w", ctx.Err())
	}
	return fault.New(fault.Timeout,
		"what is in memory of %s was not written to disk in %s, half of the timeout, so no service was stopped",
		strings.Join(notWritten, ", "), half).
		WithHint("what is written stays so: the same again with a longer timeout=SECONDS, once this run has ended, " +
			"which waits for the disk, too (lvm_snapshot_info, under_way); if nothing is written: `dmesg | tail` says whether " +
			"the disk answers, `dmsetup info -c` whether a device is suspended, `lvs -a` whether a thin pool is full")
}

// unmount keeps systemd from mounting the members, unmounts everything in the reverse order of the mounts, and closes
// the LUKS mappings.
func (rb *rollback) unmount(ctx context.Context) error {
	if err := rb.hold(ctx); err != nil {
		return err
	}
	added, err := rb.addNewMounts(ctx, rb.state.Members)
	if err != nil {
		return err
	}
	if len(added) > 0 {
		if err := rb.record(stepUnmounting, rb.state); err != nil {
			return err
		}
	}
	// The snapshots' mounts are unmounted first, because a snapshot may be mounted inside a member.
	specs := append(slices.Clone(rb.state.Mounts), rb.state.SetMounts...)
	if err := rb.unmountAll(ctx, specs, rb.state.Members); err != nil {
		return err
	}
	return rb.closeCrypts(ctx, rb.state.Members)
}

// awaitClosed waits until no member and no snapshot is open any more, and then checks everything again. It unmounts
// what is mounted during the wait, again and again: a mount that was under way at one attempt may be there only at the
// next.
func (rb *rollback) awaitClosed(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	for {
		err := rb.recheck(ctx)
		if !errors.Is(err, fault.Busy) {
			return err
		}
		if limited.Err() != nil {
			return rb.withHolders(ctx, err)
		}
		if err := rb.unmountNew(ctx, rb.state.Members); err != nil {
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
func (rb *rollback) unmountAll(ctx context.Context, specs []filesystem.MountSpec, members []*Member) error {
	volumes, snapshots, err := rb.devices(ctx, members)
	if err != nil {
		return err
	}
	for _, spec := range slices.Backward(specs) {
		if err := rb.unmountOne(ctx, spec.Point, slices.Concat(volumes, snapshots)); err != nil {
			return rb.withHolders(ctx, err)
		}
	}
	return nil
}

// unmountNew unmounts mounts of members that were made since the members were to be closed, by hand or by a unit that
// was not known, and keeps systemd from making them again. Early in a boot only mounts that are not in the journal are
// unmounted: a mount that is in the journal, such as /, is in use.
func (rb *rollback) unmountNew(ctx context.Context, members []*Member) error {
	specs, err := rb.addNewMounts(ctx, members)
	if err != nil {
		return err
	}
	if len(specs) > 0 {
		rb.enterStep(rb.entry().Step)
	}
	for _, spec := range specs {
		rb.warnings = append(rb.warnings, spec.Point+" was mounted while the rollback was under way, and unmounted for it")
	}
	if rb.systemd != nil {
		specs = slices.Concat(rb.state.Mounts, rb.state.SetMounts)
	}
	return rb.unmountAll(ctx, specs, members)
}

// addNewMounts adds to the state the mounts of whole members and of their snapshots that were made since the check, by
// an automount or by hand. Their units are held too, and undo and the last steps make these mounts again like the
// others. It returns the mounts that it added.
func (rb *rollback) addNewMounts(ctx context.Context, members []*Member) (added []filesystem.MountSpec, err error) {
	info, err := rb.lvm.Info(ctx)
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
	mounts, err := rb.server.Host.Mounts()
	if err != nil {
		return nil, err
	}
	fstab, err := rb.server.Host.Fstab()
	if err != nil {
		return nil, err
	}
	known := slices.Concat(rb.state.Mounts, rb.state.SetMounts)
	for _, m := range unknownMounts(mounts, known, volumes) {
		added = append(added, rb.newMountSpec(m, memberOf[m.Dev], info, fstab))
	}
	rb.state.Mounts = append(rb.state.Mounts, added...)
	for _, m := range unknownMounts(mounts, known, snapshots) {
		rb.state.SetMounts = append(rb.state.SetMounts, mountSpecOf(m, nil, nil))
		added = append(added, mountSpecOf(m, nil, nil))
	}
	if len(added) == 0 {
		return nil, nil
	}
	return added, rb.holdMounts(ctx, mountPoints(added))
}

// newMountSpec returns how a mount of a member that was made since the check is made again. A member that Rewind has
// made read-only could only be mounted read-only; such a mount gets the read-write state of the other mounts of the
// member.
func (rb *rollback) newMountSpec(
	m filesystem.Mount, member *Member, info map[string]lvm.Info, fstab []filesystem.FstabEntry,
) filesystem.MountSpec {
	if member.Crypt == "" {
		m.Source = "/dev/" + member.origin() // as the other mounts of the member have it
	}
	spec := mountSpecOf(m, nil, fstab)
	lv := info[member.DMName]
	isProtected, err := rb.server.Host.WriteProtected(filesystem.NewDev(lv.Major, lv.Minor))
	if err != nil || !isProtected || !member.Protect {
		return spec
	}
	spec.Options[0] = "rw"
	for _, other := range rb.state.Mounts {
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
func (rb *rollback) unmountOne(ctx context.Context, point string, devs []filesystem.Dev) error {
	limited, cancel := context.WithTimeout(ctx, busyLimit)
	defer cancel()
	for {
		err := rb.server.Host.UnmountOf(ctx, point, devs...)
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

// devices returns the devices of members, with those of their LUKS mappings, and the devices of their snapshots.
func (rb *rollback) devices(ctx context.Context, members []*Member) (volumes, snapshots []filesystem.Dev, err error) {
	info, err := rb.lvm.Info(ctx)
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
