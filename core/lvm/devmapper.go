package lvm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

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
	targets := status[pool.DMName+"-tpool"]
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

// Suspend holds back all writes to devices and flushes and freezes what is
// mounted on them, in the order given, by one command, which stops at the first
// that fails. On a fault some may be suspended: Resume them all. It must never
// be done to a thin volume that is to be snapshotted: LVM then skips the message
// to the pool, which damages it.
func (l *LVM) Suspend(ctx context.Context, dmNames ...string) error {
	return l.onDevices(ctx, "suspend", dmNames)
}

// Resume lets writes to devices go on; one that is not suspended is no error.
// dmsetup stops at the first device that fails, as one that is gone does: then
// each is resumed by itself, so that no other stays suspended.
func (l *LVM) Resume(ctx context.Context, dmNames ...string) error {
	err := l.onDevices(ctx, "resume", dmNames)
	if err == nil || len(dmNames) < 2 {
		return err
	}
	var errs []error
	for _, name := range dmNames {
		errs = append(errs, l.onDevices(ctx, "resume", []string{name}))
	}
	return fault.All(errs...)
}

// Unsuspend lets those of the volumes go on that are suspended, which a command that was killed may have left so. Their
// tables are loaded anew from LVM's metadata: a plain resume would make a table live that the command had prepared for
// what it never recorded. Only one that LVM then has left suspended is resumed: its live table is LVM's own. volumes are
// vg/lv by their device's name.
func (l *LVM) Unsuspend(ctx context.Context, volumes map[string]string) error {
	asleep := func() (names, devices []string, err error) {
		info, err := l.Info(ctx)
		for _, device := range slices.Sorted(maps.Keys(volumes)) {
			if info[device].Suspended {
				names, devices = append(names, volumes[device]), append(devices, device)
			}
		}
		return names, devices, err
	}
	names, _, err := asleep()
	if err != nil || len(names) == 0 {
		return err
	}
	refreshed := l.Refresh(ctx, names...)
	_, devices, err := asleep()
	if err != nil || len(devices) == 0 {
		return err
	}
	return fault.All(refreshed, l.Resume(ctx, devices...))
}

func (l *LVM) onDevices(ctx context.Context, verb string, dmNames []string) error {
	if len(dmNames) == 0 {
		return nil
	}
	return l.change(ctx, append([]string{"dmsetup", verb, "--"}, dmNames...)...)
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
