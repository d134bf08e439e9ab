package lvm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// sector is device-mapper's unit in bytes, whatever the disk's own is.
const sector = 512

// Target is one line of a device's status: what the kernel maps a range of it
// to. Start and Length are 512-byte sectors.
type Target struct {
	Start, Length int64
	Type          string
	Args          []string
}

// SnapshotStatus is how full a thick snapshot's COW space is, or how far its
// merge is. Figures are 512-byte sectors and exact; with Invalid, Overflow,
// MergeFailed or Unknown there are none.
type SnapshotStatus struct {
	Used, Total, Metadata int64
	Merging               bool // the target is snapshot-merge: the kernel is merging
	Invalid               bool
	Overflow              bool
	MergeFailed           bool
	Unknown               bool // the kernel's COW format does not tell
}

// UsedBytes returns the COW space in use, metadata included.
func (s SnapshotStatus) UsedBytes() int64 { return s.Used * sector }

// TotalBytes returns the COW space.
func (s SnapshotStatus) TotalBytes() int64 { return s.Total * sector }

// Lost reports whether what the snapshot held is gone.
func (s SnapshotStatus) Lost() bool { return s.Invalid || s.Overflow }

// Merged reports whether the kernel has copied everything back: only metadata
// is left. LVM must still be told, which its poller or Poll does.
func (s SnapshotStatus) Merged() bool {
	return s.Merging && s.Total > 0 && s.Used == s.Metadata
}

// Snapshot reads the status of a snapshot or snapshot-merge target
// (linux, Documentation/admin-guide/device-mapper/snapshot.rst). It reports
// false for another target, and for words the kernel's documentation does not have.
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
	return s, s.figures(t.Args)
}

// figures reads "used/total metadata".
func (s *SnapshotStatus) figures(args []string) bool {
	if len(args) != 2 {
		return false
	}
	used, total, ok := strings.Cut(args[0], "/")
	if !ok {
		return false
	}
	for _, f := range []struct {
		to   *int64
		text string
	}{{&s.Used, used}, {&s.Total, total}, {&s.Metadata, args[1]}} {
		n, err := strconv.ParseInt(f.text, 10, 64)
		if err != nil || n < 0 {
			return false
		}
		*f.to = n
	}
	return true
}

// PoolDamaged reports whether a thin pool's kernel and LVM disagree on the
// pool's transaction: then nothing can be created in it and a merge can lose the
// origin. LVM allows the kernel to be one behind (lvm2, WARNING: Thin pool … has
// unexpected transaction id). Of an inactive pool nothing is known.
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
	UUID         string // LVM- and the UUIDs of group and volume without hyphens, maybe a layer's suffix
	Major, Minor int
	Open         int // how often it is open; a mount is one, a device stacked on it is one
	Suspended    bool
}

// Status returns every device-mapper device's targets, by device name. A device
// without a table has none. One command; it flushes nothing and does not wait
// for a suspended device.
func (l *LVM) Status(ctx context.Context) (map[string][]Target, error) {
	if l.kernel != nil {
		devices, err := l.asked(ctx)
		status := make(map[string][]Target, len(devices))
		for name, d := range devices {
			status[name] = d.Targets
		}
		return status, err
	}
	out, err := l.steady(ctx, "dmsetup", "status", "--noflush")
	if err != nil {
		return nil, err
	}
	return parseStatus(out.Stdout)
}

// Info returns every device-mapper device's numbers and open count, by device name. One command.
func (l *LVM) Info(ctx context.Context) (map[string]Info, error) {
	if l.kernel != nil {
		devices, err := l.asked(ctx)
		info := make(map[string]Info, len(devices))
		for name, d := range devices {
			info[name] = d.Info
		}
		return info, err
	}
	out, err := l.steady(ctx, "dmsetup", "info", "--columns", "--noheadings", "--separator", "|",
		"--options", "name,uuid,major,minor,open,suspended")
	if err != nil {
		return nil, err
	}
	return parseInfo(out.Stdout)
}

// steady repeats a look at all devices. dmsetup lists the devices first and then
// asks for each, so it fails when one vanishes in between, as at a merge's end.
func (l *LVM) steady(ctx context.Context, argv ...string) (command.Output, error) {
	const tries = 3
	for i := 1; ; i++ {
		out, err := l.look(ctx, argv...)
		if err == nil || i == tries || ctx.Err() != nil {
			return out, explain(err)
		}
	}
}

// Release resumes those of the devices that are suspended and have no prepared
// table, as an Instant suspends them: nothing but a process that is gone keeps
// them so. A device that does not exist is no error. It asks no LVM command.
func (l *LVM) Release(devices ...string) error {
	m, err := l.mapper()
	if err != nil {
		return err
	}
	defer m.Close()
	var errs []error
	for _, device := range devices {
		mapping, err := m.Mapping(device)
		if err == nil && mapping.Suspended && !mapping.Prepared {
			err = deviceFault("resume", device, again(m.Resume(device)))
		}
		if !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}

// restLimit bounds the wait for an LVM command that is at work on a group.
const restLimit = time.Minute

// Unsuspend puts back what a command that failed or was killed has left of
// volumes' devices. A table that the command had prepared is dropped, never made
// live: it may be for what LVM's metadata does not say. Those that are suspended
// go on, and their tables are loaded anew from the metadata. An inner device that
// nothing uses is removed. volumes are vg/lv by their device's name. While an LVM
// command is at work in one of the groups nothing is its leftover: Unsuspend waits
// for it. Faults: locked if that takes longer than a minute; those of Refresh.
func (l *LVM) Unsuspend(ctx context.Context, volumes map[string]string) error {
	m, err := l.mapper()
	if err != nil {
		return err
	}
	defer m.Close()
	found, err := leftovers(m, volumes)
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
	locks, err := l.lock(ctx, groups, restLimit)
	if err != nil {
		return err
	}
	found, err = leftovers(m, volumes) // of the command that was waited for
	var refresh []string
	errs := []error{err}
	for _, device := range slices.Sorted(maps.Keys(found)) {
		if found[device].halfDone {
			refresh = append(refresh, volumes[device])
			errs = append(errs, m.Clear(device), deviceFault("resume", device, again(m.Resume(device))))
		}
		if found[device].inner {
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

// innerSuffix is the end of the name of the device below an origin that has
// thick snapshots (dev_manager.c, "real").
const innerSuffix = "-real"

// leftover is what a command that did not come to its end has left of a volume's device.
type leftover struct {
	halfDone bool // it is suspended or has a prepared table
	inner    bool // an inner device is there that its table does not use
}

// leftovers returns those of the volumes' devices of which something is left.
func leftovers(m Mapper, volumes map[string]string) (map[string]leftover, error) {
	found := map[string]leftover{}
	for device := range volumes {
		mapping, err := m.Mapping(device)
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		left := leftover{halfDone: mapping.Suspended || mapping.Prepared}
		if !kindIs(mapping, "snapshot-origin") && !kindIs(mapping, "snapshot-merge") {
			_, err := m.Mapping(device + innerSuffix)
			left.inner = err == nil
		}
		if left != (leftover{}) {
			found[device] = left
		}
	}
	return found, nil
}

// Disarm drops the prepared tables of snapshots' devices that an Instant left, and resumes those that are suspended, so
// that they can be removed. A device that does not exist is no error.
func (l *LVM) Disarm(devices ...string) error {
	m, err := l.mapper()
	if err != nil {
		return err
	}
	defer m.Close()
	var errs []error
	for _, device := range devices {
		if err := m.Clear(device); !errors.Is(err, fault.NotFound) {
			errs = append(errs, err, deviceFault("resume", device, again(m.Resume(device))))
		}
	}
	return fault.All(errs...)
}

// none is what dmsetup prints, without an error, where there is no device at all.
const none = "No devices found"

func parseStatus(stdout string) (map[string][]Target, error) {
	devices := map[string][]Target{}
	for line := range strings.Lines(stdout) {
		line = strings.TrimRight(line, " \n")
		if line == "" || line == none {
			continue
		}
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, unreadableLine("status", line)
		}
		target, err := parseTarget(rest)
		if err != nil {
			return nil, unreadableLine("status", line)
		}
		if target == nil {
			devices[name] = devices[name][:0:0]
			continue
		}
		devices[name] = append(devices[name], *target)
	}
	return devices, nil
}

// parseTarget reads "start length type args"; a device without a table has an empty line.
func parseTarget(s string) (*Target, error) {
	words := strings.Fields(s)
	if len(words) == 0 {
		return nil, nil
	}
	if len(words) < 3 {
		return nil, fmt.Errorf("%d words", len(words))
	}
	start, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return nil, err
	}
	length, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil {
		return nil, err
	}
	return &Target{Start: start, Length: length, Type: words[2], Args: words[3:]}, nil
}

func parseInfo(stdout string) (map[string]Info, error) {
	devices := map[string]Info{}
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		if line == "" || line == none {
			continue
		}
		words := strings.Split(line, "|")
		if len(words) != 6 || words[0] == "" {
			return nil, unreadableLine("info", line)
		}
		info := Info{UUID: words[1], Suspended: words[5] == "Suspended"}
		for i, to := range []*int{&info.Major, &info.Minor, &info.Open} {
			n, err := strconv.Atoi(words[2+i])
			if err != nil || n < 0 {
				return nil, unreadableLine("info", line)
			}
			*to = n
		}
		devices[words[0]] = info
	}
	return devices, nil
}

func unreadableLine(verb, line string) error {
	return fault.New(fault.CommandFailed, "dmsetup %s printed a line that cannot be read: %q", verb, line)
}
