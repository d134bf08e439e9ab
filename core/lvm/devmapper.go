package lvm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// sector is device-mapper's unit, in bytes. The disk's own sectors may be larger.
const sector = 512

// Target is one line of a device's table or status: what the kernel maps a range of the device to. Start and Length are
// 512-byte sectors.
type Target struct {
	Start, Length int64
	Type          string
	Args          []string
}

// SnapshotStatus says how full a thick snapshot's COW space is, or how far its merge has come. Used (metadata
// included), Total and Metadata are exact, in 512-byte sectors. With Invalid, Overflow, MergeFailed or Unknown the
// kernel does not report them.
type SnapshotStatus struct {
	Used, Total, Metadata int64
	Merging               bool // the target is snapshot-merge: the kernel is merging
	Invalid               bool
	Overflow              bool
	MergeFailed           bool
	Unknown               bool // the format of the COW space has no figures
}

// UsedBytes returns how much of the COW space is in use, metadata included, in bytes.
func (s SnapshotStatus) UsedBytes() int64 { return s.Used * sector }

// TotalBytes returns the size of the COW space in bytes.
func (s SnapshotStatus) TotalBytes() int64 { return s.Total * sector }

// Lost reports whether the content of the snapshot is lost.
func (s SnapshotStatus) Lost() bool { return s.Invalid || s.Overflow }

// Merged reports whether the kernel has copied everything back, so that only metadata is left in the COW space. LVM
// must still be told: its poller does that, or Poll.
func (s SnapshotStatus) Merged() bool {
	return s.Merging && s.Total > 0 && s.Used == s.Metadata
}

// Snapshot decodes the status of a snapshot or snapshot-merge target (linux,
// Documentation/admin-guide/device-mapper/snapshot.rst). It returns false for any other target, and for a status that
// is not in the kernel's documentation.
func (t Target) Snapshot() (SnapshotStatus, bool) {
	s := SnapshotStatus{Merging: t.Type == "snapshot-merge"}
	if !s.Merging && t.Type != "snapshot" {
		return s, false
	}
	switch strings.Join(t.Args, " ") {
	case "Invalid":
		s.Invalid = true
		return s, true
	case "Overflow":
		s.Overflow = true
		return s, true
	case "Merge failed":
		s.MergeFailed = true
		return s, true
	case "Unknown":
		s.Unknown = true
		return s, true
	}
	return s, s.parseUsage(t.Args)
}

// parseUsage parses "used/total metadata", and reports whether args have that form.
func (s *SnapshotStatus) parseUsage(args []string) bool {
	if len(args) != 2 {
		return false
	}
	used, total, ok := strings.Cut(args[0], "/")
	if !ok {
		return false
	}
	for _, figure := range []struct {
		field *int64
		text  string
	}{{&s.Used, used}, {&s.Total, total}, {&s.Metadata, args[1]}} {
		n, err := strconv.ParseInt(figure.text, 10, 64)
		if err != nil || n < 0 {
			return false
		}
		*figure.field = n
	}
	return true
}

// PoolDamaged reports whether the kernel and LVM disagree on a thin pool's transaction id. If they do, nothing can be
// created in the pool, and a merge can lose the origin. LVM allows the kernel to be one behind (lvm2, WARNING: Thin
// pool … has unexpected transaction id). status is what Status returned. PoolDamaged returns false for an inactive
// pool, of which the kernel knows nothing.
func PoolDamaged(pool *Volume, status map[string][]Target) bool {
	targets := status[pool.DMName+poolSuffix]
	if len(targets) == 0 {
		targets = status[pool.DMName]
	}
	if len(targets) != 1 || targets[0].Type != "thin-pool" || len(targets[0].Args) == 0 {
		return false
	}
	id, err := strconv.ParseInt(targets[0].Args[0], 10, 64)
	if err != nil {
		// The kernel prints Fail or Error in place of the figures.
		return true
	}
	return id != pool.TransactionID && id != pool.TransactionID-1
}

// Info is what the kernel knows of a device-mapper device.
type Info struct {
	UUID         string // "LVM-", the UUIDs of group and volume without hyphens, and an inner device's suffix
	Major, Minor int
	Open         int // the open count: each mount and each device that is stacked on it counts as one
	Suspended    bool
}

// Status returns the targets of every device-mapper device, by the name of the device. A device without a table has no
// targets. Status flushes nothing and does not wait for a suspended device. It runs one command, unless Direct set a
// Kernel. Fault: command_failed.
func (l *LVM) Status(ctx context.Context) (map[string][]Target, error) {
	if l.kernel != nil {
		devices, err := l.askKernel(ctx)
		status := make(map[string][]Target, len(devices))
		for name, d := range devices {
			status[name] = d.Targets
		}
		return status, err
	}
	out, err := l.queryDevices(ctx, "dmsetup", "status", "--noflush")
	if err != nil {
		return nil, err
	}
	return parseStatus(out.Stdout)
}

// Info returns the numbers, the open count and the state of every device-mapper device, by the name of the device. It
// runs one command, unless Direct set a Kernel. Fault: command_failed.
func (l *LVM) Info(ctx context.Context) (map[string]Info, error) {
	if l.kernel != nil {
		devices, err := l.askKernel(ctx)
		info := make(map[string]Info, len(devices))
		for name, d := range devices {
			info[name] = d.Info
		}
		return info, err
	}
	out, err := l.queryDevices(ctx, "dmsetup", "info", "--columns", "--noheadings", "--separator", "|",
		"--options", "name,uuid,major,minor,open,suspended")
	if err != nil {
		return nil, err
	}
	return parseInfo(out.Stdout)
}

// CryptOptions returns the optional parameters of a crypt device's table, such as allow_discards (dm-crypt). Faults:
// not_found, not_root, internal.
func (l *LVM) CryptOptions(device string) ([]string, error) {
	m, err := l.openMapper()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	mapping, err := m.Mapping(device)
	if err != nil || len(mapping.Table) == 0 {
		return nil, err
	}
	return mapping.Table[0].cryptOptions(), nil
}

// cryptOptions returns the optional parameters of a target crypt. Its arguments are the cipher, the key, the offset of
// the IV, the device, the offset on it, and, if there are any, the number of the optional parameters and these. It
// returns nil if they are of another form.
func (t Target) cryptOptions() []string {
	const fixed = 5
	if t.Type != "crypt" || len(t.Args) <= fixed {
		return nil
	}
	n, err := strconv.Atoi(t.Args[fixed])
	given := t.Args[fixed+1:]
	if err != nil || n != len(given) {
		return nil
	}
	var options []string
	for _, o := range given {
		options = append(options, strings.Clone(o)) // so that the key, in the same string, does not stay in memory
	}
	return options
}

// queryDevices runs a dmsetup command that reads all devices, and repeats it if it fails. dmsetup first lists the
// devices and then asks for each one, so it fails if one vanishes in between, as at the end of a merge.
func (l *LVM) queryDevices(ctx context.Context, argv ...string) (command.Output, error) {
	const tries = 3
	for i := 1; ; i++ {
		out, err := l.query(ctx, argv...)
		if err == nil || i == tries || ctx.Err() != nil {
			return out, explain(err)
		}
	}
}

// Release resumes those of the devices that are suspended and have no prepared table. An Instant suspends origins in
// this way, so the caller must know that the process that suspended them is gone. A device that does not exist is no
// error. Release runs no LVM command. Faults: not_root, command_failed.
func (l *LVM) Release(devices ...string) error {
	m, err := l.openMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	var errs []error
	for _, device := range devices {
		mapping, err := m.Mapping(device)
		if err == nil && mapping.Suspended && !mapping.Prepared {
			err = deviceFault("resume", device, retryInterrupted(m.Resume(device)))
		}
		if !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}

// unsuspendLimit bounds Unsuspend's wait for an LVM command that works on one of the groups.
const unsuspendLimit = time.Minute

// Unsuspend cleans up the devices of volumes after a command that failed or was killed. volumes maps the name of each
// device to its volume, vg/lv.
//
// A table that the command had prepared is dropped and never made live, because it may differ from LVM's metadata. A
// suspended device is resumed, and its table is loaded anew from the metadata. An inner device that nothing uses is
// removed. What an LVM command that still runs has suspended is no leftover, so Unsuspend first waits until no command
// works on the groups.
//
// Faults: locked if that takes longer than a minute; not_root; those of Refresh.
func (l *LVM) Unsuspend(ctx context.Context, volumes map[string]string) error {
	m, err := l.openMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	found, err := findLeftovers(m, volumes)
	if err != nil || len(found) == 0 {
		return err
	}
	var groups []string
	for device := range found {
		group, _, _ := strings.Cut(volumes[device], "/")
		if !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	locks, err := l.lockGroups(ctx, groups, unsuspendLimit)
	if err != nil {
		return err
	}
	found, err = findLeftovers(m, volumes) // again: the LVM command that was waited for may have changed them
	var refresh []string
	errs := []error{err}
	for _, device := range slices.Sorted(maps.Keys(found)) {
		if found[device].halfDone {
			refresh = append(refresh, volumes[device])
			errs = append(errs, resumeWithout(m, device))
		}
		if found[device].unusedInner {
			if err := m.Remove(device + innerSuffix); !errors.Is(err, fault.Busy) {
				errs = append(errs, err)
			}
		}
	}
	locks.Release()
	if err := fault.All(errs...); err != nil {
		return err
	}
	return l.Refresh(ctx, refresh...)
}

// innerSuffix ends the name of the inner device, which lies below an origin that has thick snapshots (dev_manager.c,
// "real").
const innerSuffix = "-real"

// leftover is what a command that failed or was killed has left of a volume's device.
type leftover struct {
	halfDone    bool // the device is suspended or has a prepared table
	unusedInner bool // there is an inner device that the volume's table does not use
}

// findLeftovers returns the leftovers of the volumes by the names of their devices. A device without any is left out.
func findLeftovers(m Mapper, volumes map[string]string) (map[string]leftover, error) {
	found := map[string]leftover{}
	for device := range volumes {
		mapping, err := m.Mapping(device)
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		remains := leftover{halfDone: mapping.Suspended || mapping.Prepared}
		if !hasSingleTarget(mapping, "snapshot-origin") && !hasSingleTarget(mapping, "snapshot-merge") {
			_, err := m.Mapping(device + innerSuffix)
			remains.unusedInner = err == nil
		}
		if remains != (leftover{}) {
			found[device] = remains
		}
	}
	return found, nil
}

// resumeWithout drops the prepared table of a device and resumes the device. If the table cannot be dropped, the device
// stays suspended: to resume it would make the table live.
func resumeWithout(m Mapper, device string) error {
	if err := m.Clear(device); err != nil {
		return err
	}
	return deviceFault("resume", device, retryInterrupted(m.Resume(device)))
}

// DropPrepared drops the prepared tables that an Instant left on the devices of snapshots, and resumes the devices, so
// that the snapshots can be removed. A device that does not exist is no error. Faults: not_root, command_failed.
func (l *LVM) DropPrepared(devices ...string) error {
	m, err := l.openMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	var errs []error
	for _, device := range devices {
		if err := resumeWithout(m, device); !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}
