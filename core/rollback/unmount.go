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
	// letLimit bounds the wait for somebody who looks at a file system in just this moment, as monitoring programs do.
	letLimit = 5 * time.Second
	// lookLimit bounds the wait for a device to be closed that nothing is mounted from: a mount that systemd had begun
	// before it was told to wait, or udev, which looks at a device when it is closed. On a busy server each takes seconds.
	lookLimit = 30 * time.Second
	// letTick is how often an unmount is tried meanwhile: the kernel tells nobody that a mount is not in use any more.
	letTick = 20 * time.Millisecond
)

// writeOut has the members' file systems write out what is only in memory, while their services still run: the unmount
// would write it while they are down. What a device does not take in half the time, the rollback is not begun for.
func (w *walk) writeOut(ctx context.Context) error {
	half := w.Timeout / 2
	w.trip.Progress("writing out", -1)
	late := filesystem.WriteOut(ctx, points(w.state.Mounts), half)
	if len(late) == 0 {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Interrupted, "no service was stopped: %w", ctx.Err())
	}
	return fault.New(fault.Timeout,
		"what is in memory of %s was not written to disk in %s, half of the timeout, so no service was stopped",
		strings.Join(late, ", "), half).
		WithHint("what is written stays so: the same again with a longer timeout=SECONDS, once this run has ended, " +
			"which waits for the disk, too (lvm_snapshot_info, under_way); if nothing is written: `dmesg | tail` says whether " +
			"the disk answers, `dmsetup info -c` whether a device is suspended, `lvs -a` whether a thin pool is full")
}

// unmount keeps systemd from mounting the members, unmounts everything, the last mounted first, and closes what lies
// between file system and volume.
func (w *walk) unmount(ctx context.Context) error {
	if err := w.hold(ctx); err != nil {
		return err
	}
	since, err := w.takeIn(ctx, w.state.Members)
	if err != nil {
		return err
	}
	if len(since) > 0 {
		if err := w.record(stepUnmounting, w.state); err != nil {
			return err
		}
	}
	specs := append(slices.Clone(w.state.Mounts), w.state.SetMounts...) // a set may be mounted inside a member
	if err := w.unmountAll(ctx, specs, w.state.Members); err != nil {
		return err
	}
	return w.closeCrypts(ctx, w.state.Members)
}

// closed waits until no member and no snapshot is open any more, unmounts what is mounted meanwhile, and checks
// everything again then. A mount that was under way at one look may be there only at the next.
func (w *walk) closed(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	for {
		err := w.recheck(ctx)
		if !errors.Is(err, fault.Busy) {
			return err
		}
		if limit.Err() != nil {
			return w.stillBusy(ctx, err)
		}
		if err := w.evict(ctx, w.state.Members); err != nil {
			return err
		}
		select {
		case <-time.After(letTick):
		case <-limit.Done():
		}
	}
}

// unmountAll unmounts what was mounted last first, if it is on one of these members.
func (w *walk) unmountAll(ctx context.Context, specs []filesystem.MountSpec, members []*Member) error {
	volumes, snapshots, err := w.devices(ctx, members)
	if err != nil {
		return err
	}
	for _, spec := range slices.Backward(specs) {
		if err := unmountOne(ctx, spec.Point, slices.Concat(volumes, snapshots)); err != nil {
			return w.stillBusy(ctx, err)
		}
	}
	return nil
}

// evict unmounts what was mounted of members while all was to be closed, by hand or by a unit that nobody knew of, and
// keeps it from being mounted again. Early in a boot what was mounted before is in use, as / is, and stays.
func (w *walk) evict(ctx context.Context, members []*Member) error {
	since, err := w.takeIn(ctx, members)
	if err != nil {
		return err
	}
	if len(since) > 0 {
		w.reached(w.entry().Step)
	}
	for _, spec := range since {
		w.warnings = append(w.warnings, spec.Point+" was mounted while the rollback was under way, and unmounted for it")
	}
	if w.systemd != nil {
		since = slices.Concat(w.state.Mounts, w.state.SetMounts)
	}
	return w.unmountAll(ctx, since, members)
}

// takeIn adds the mounts of whole members and of their snapshots that were made since the check, by an automount or
// by hand: their units are held, too, and they are made again like the others. It returns those that were added.
func (w *walk) takeIn(ctx context.Context, members []*Member) (since []filesystem.MountSpec, err error) {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return nil, err
	}
	of := map[filesystem.Dev]*Member{}
	var volumes, snapshots []filesystem.Dev
	for _, m := range members {
		own, snapshot := m.devices(info)
		for _, dev := range own {
			of[dev] = m
		}
		volumes, snapshots = append(volumes, own...), append(snapshots, snapshot...)
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	fstab, err := filesystem.Fstab("/etc/fstab")
	if err != nil {
		return nil, err
	}
	known := slices.Concat(w.state.Mounts, w.state.SetMounts)
	for _, m := range came(mounts, known, volumes) {
		since = append(since, w.lately(m, of[m.Dev], info, fstab))
	}
	w.state.Mounts = append(w.state.Mounts, since...)
	for _, m := range came(mounts, known, snapshots) {
		w.state.SetMounts = append(w.state.SetMounts, again(m, nil, nil))
		since = append(since, again(m, nil, nil))
	}
	if len(since) == 0 {
		return nil, nil
	}
	return since, w.holdLate(ctx, points(since))
}

// lately is how a mount of a member is made again that came since the check. What is mounted of a protected member is
// read-only for that reason, so it is mounted as the others of the member are.
func (w *walk) lately(
	m filesystem.Mount, of *Member, info map[string]lvm.Info, fstab []filesystem.FstabEntry,
) filesystem.MountSpec {
	if of.Crypt == "" {
		m.Source = "/dev/" + of.origin() // as the others have it
	}
	spec := again(m, nil, fstab)
	lv := info[of.DMName]
	if is, err := w.protected(filesystem.NewDev(lv.Major, lv.Minor)); err != nil || !is || !of.Protect {
		return spec
	}
	spec.Options[0] = "rw"
	for _, other := range w.state.Mounts {
		if other.Source == spec.Source && other.Bind == "" {
			spec.Options[0] = other.Options[0]
			break
		}
	}
	return spec
}

// came returns the mounts of whole devices that are at none of the points known.
func came(mounts []filesystem.Mount, known []filesystem.MountSpec, devs []filesystem.Dev) []filesystem.Mount {
	return slices.DeleteFunc(slices.Clone(mounts), func(m filesystem.Mount) bool {
		return m.Root != "/" || !slices.Contains(devs, m.Dev) || slices.Contains(points(known), m.Point)
	})
}

// unmountOne unmounts what is seen at point if it is on one of the devices. Somebody who looks at it just now is
// waited for.
func unmountOne(ctx context.Context, point string, devs []filesystem.Dev) error {
	let, cancel := context.WithTimeout(ctx, letLimit)
	defer cancel()
	for {
		err := filesystem.UnmountOf(ctx, point, devs...)
		if !errors.Is(err, fault.Busy) {
			return err
		}
		select {
		case <-time.After(letTick):
		case <-let.Done():
			return err
		}
	}
}

// devices are those of members, with what is open above them, and those of their snapshots.
func (w *walk) devices(ctx context.Context, members []*Member) (volumes, snapshots []filesystem.Dev, err error) {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range members {
		own, snapshot := m.devices(info)
		volumes, snapshots = append(volumes, own...), append(snapshots, snapshot...)
	}
	return volumes, snapshots, nil
}

// devices are those that there are of a member and of its snapshot.
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
