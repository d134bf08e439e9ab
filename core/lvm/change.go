package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// The functions of this file take volumes by their names, vg/lv, as Volume.FullName returns them. For a name of another
// form they return bad_arguments.

// SnapshotSpec describes a snapshot to be taken.
type SnapshotSpec struct {
	VG, Origin, Name string
	Extents          int64 // COW space of a thick snapshot, in extents; 0: take a thin snapshot, which needs none
	ChunkBytes       int64 // chunk size of a thick snapshot; 0: Chunk
	Tags             []string

	// Inactive creates a thin snapshot without a device, as an Instant needs it, and with LVM's activation-skip flag.
	// Without that flag udev would activate it: udev has LVM activate a group when it sees the group's disks. A thick
	// snapshot cannot be inactive.
	Inactive bool
}

// CreateSnapshot takes a snapshot and leaves it active, unless c.Inactive is set. LVM suspends the origin while it
// swaps the origin's table, which also flushes and freezes the file system that is mounted on it. LVM reduces COW space
// beyond MaxCOW to MaxCOW.
//
// Faults: exists, no_space, not_found, merging (the origin is merging), busy (the origin's file system is frozen, and
// kernels before 6.12 cannot suspend such a device), pool_damaged, unsupported, command_failed.
//
// After busy, a half-made volume with the snapshot's name and tags is left (without an Origin, in State
// mapped_with_inactive_table), and the origin keeps an inner device. The caller must Remove the half-made volume and
// Unsuspend the origin.
func (l *LVM) CreateSnapshot(ctx context.Context, c SnapshotSpec) error {
	return l.change(ctx, c.argv()...)
}

func (c SnapshotSpec) argv() []string {
	argv := []string{"lvm", "lvcreate", "--yes", "--snapshot", "--name", c.Name}
	switch {
	case c.Extents > 0:
		argv = append(argv, "--extents", strconv.FormatInt(c.Extents, 10), "--chunksize", bytesArg(c.chunkSize()))
	case c.Inactive:
		argv = append(argv, "--setactivationskip", "y")
	default:
		// LVM sets the flag on thin snapshots by default. Then a plain -ay does not activate them, and nothing mounts them.
		argv = append(argv, "--setactivationskip", "n")
	}
	argv = append(argv, repeatOption("--addtag", c.Tags)...)
	return append(argv, "--", c.VG+"/"+c.Origin)
}

func (c SnapshotSpec) chunkSize() int64 {
	if c.ChunkBytes > 0 {
		return c.ChunkBytes
	}
	return Chunk
}

// bytesArg formats a number of bytes for LVM's size options, where a bare number would be MiB.
func bytesArg(n int64) string {
	return strconv.FormatInt(n, 10) + "b"
}

// Extend makes a volume, or a thick snapshot's COW space, at least size bytes long. It never shrinks anything: a volume
// of that size or more stays as it is, and COW space grows no further than MaxCOW. An overflowed snapshot can be
// extended, and stays invalid. Faults: no_space, not_found, merging, command_failed.
func (l *LVM) Extend(ctx context.Context, volume string, size int64) error {
	// lvextend refuses a size that is not a multiple of 512 bytes.
	size = roundUp(size, sector)
	err := l.onVolumes(ctx, []string{volume}, "lvextend", "--yes", "--size", bytesArg(size))
	if sizeReached(err) {
		return nil
	}
	return err
}

// sizeReached reports whether err is one of the errors by which lvextend(8) says that there is nothing to do.
func sizeReached(err error) bool {
	failed := (*command.Error)(nil)
	if !errors.As(err, &failed) {
		return false
	}
	return strings.Contains(failed.Stderr, "matches existing size") ||
		strings.Contains(failed.Stderr, "No size change.") || // 2.03.31
		strings.Contains(failed.Stderr, "not larger than existing size")
}

// Remove removes snapshots of a report in one command. Of each it needs VG, Name and UUID. LVM removes one only if both
// name and UUID are still the same, and if nobody has taken thick snapshots of it, which would be removed with it: all
// that LVM looks at while it holds the group's lock. So what another program has made since the report is left alone,
// under whatever name. LVM goes on after a volume that it cannot remove, so after a fault some may be gone.
//
// Faults: busy, merging, command_failed; not_found also for a volume that exists under another name by now.
func (l *LVM) Remove(ctx context.Context, snapshots ...*Volume) error {
	var names, uuids []string
	for _, v := range snapshots {
		if !isUUID(v.UUID) {
			return fault.New(fault.Internal, "lvremove: %s has the UUID %q", v.FullName(), v.UUID)
		}
		names, uuids = append(names, v.FullName()), append(uuids, `lv_uuid="`+v.UUID+`"`)
	}
	// The names are given too, since LVM passes over a merging snapshot without an error when it goes through a group by a
	// selection alone. A name that does not exist is an error. A volume that is not selected is passed over.
	selection := "(" + strings.Join(uuids, " || ") + ") && lv_role!={thickorigin}"
	out, err := l.onVolumesOutput(ctx, names, "lvremove", "--yes", "--select", selection)
	if err != nil || !slices.ContainsFunc(snapshots, func(v *Volume) bool { return !saysRemoved(out.Stdout, v) }) {
		return err
	}
	return l.requireGone(ctx, snapshots)
}

// isUUID reports whether s has the form of LVM's UUIDs, which need no escape in a selection.
func isUUID(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}

// saysRemoved reports whether lvremove has printed that it removed the volume. With log/silent it prints nothing.
func saysRemoved(stdout string, v *Volume) bool {
	return strings.Contains(stdout, `Logical volume "`+v.Name+`" successfully removed`)
}

// requireGone fails if snapshots still exist that lvremove has passed over.
func (l *LVM) requireGone(ctx context.Context, snapshots []*Volume) error {
	report, err := l.Report(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range snapshots {
		var now *Volume
		if g, ok := report.Group(v.VG); ok {
			now, _ = g.ByUUID(v.UUID)
		}
		switch {
		case now == nil:
		case now.FullName() != v.FullName():
			errs = append(errs, fault.New(fault.NotFound, "%s was not removed: another program has renamed it to %s",
				v.FullName(), now.FullName()).WithHint("run this again, which looks anew"))
		default:
			errs = append(errs, fault.New(fault.Busy, "%s was not removed: another program has taken snapshots of it, "+
				"which would be removed with it", v.FullName()).WithHint("remove them first, then run this again"))
		}
	}
	return fault.All(errs...)
}

// AddTags adds tags to volumes in one command. Faults: not_found, command_failed.
func (l *LVM) AddTags(ctx context.Context, tags []string, volumes ...string) error {
	return l.changeTags(ctx, "--addtag", tags, volumes)
}

// ClearActivationSkip clears the activation-skip flag of volumes (lvchange(8), --setactivationskip), so that they are
// activated with their group, and adds tags to them, in one command. Faults: not_found, command_failed.
func (l *LVM) ClearActivationSkip(ctx context.Context, tags []string, volumes ...string) error {
	options := append([]string{"--setactivationskip", "n"}, repeatOption("--addtag", tags)...)
	return l.onVolumes(ctx, volumes, "lvchange", options...)
}

// DelTags removes tags from volumes in one command. A tag that a volume does not have is no error. Faults: not_found,
// command_failed.
func (l *LVM) DelTags(ctx context.Context, tags []string, volumes ...string) error {
	return l.changeTags(ctx, "--deltag", tags, volumes)
}

// changeTags runs lvchange with the option for each of the tags; without tags it does nothing.
func (l *LVM) changeTags(ctx context.Context, option string, tags, volumes []string) error {
	if len(tags) == 0 {
		return nil
	}
	return l.onVolumes(ctx, volumes, "lvchange", repeatOption(option, tags)...)
}

// repeatOption returns the arguments that give an option once with each of the values.
func repeatOption(option string, values []string) []string {
	options := make([]string, 0, 2*len(values))
	for _, value := range values {
		options = append(options, option, value)
	}
	return options
}

// Merge asks LVM to merge snapshots into their origins, in the background, by one command. The command is not atomic,
// and its success proves nothing: LVM commits one volume after the other (in the group's order, not in the order of the
// arguments), goes on after one that it refuses, and defers one whose origin is open, without an error. So whatever
// Merge returns, the caller must ask Status (the origin of a thick snapshot must have the target snapshot-merge) and
// Report (a thin snapshot must be gone).
//
// LVM's poller outlives the command. --interval +60 delays its first check, whether the kernel has finished a merge, by
// a minute. At the end of a merge the poller loads new tables, and udev processes the changed devices; without the
// delay this would come just when services start. Poll has LVM finish a merge earlier. Only LVM's own poller obeys the
// plus sign, lvmpolld does not (see mergeConfig).
//
// Fault: merge_failed, with LVM's words in the facts.
func (l *LVM) Merge(ctx context.Context, snapshots ...string) error {
	err := l.onVolumes(ctx, snapshots, "lvconvert", "--yes", "--merge", "--background",
		"--interval", "+60")
	if err == nil {
		return nil
	}
	if !exitedWithError(err) {
		return err
	}
	return fault.New(fault.MergeFailed, "merge %s: %w", strings.Join(snapshots, ", "), err)
}

// NotFound returns the volumes, vg/lv, of which LVM has said that they do not exist, if err is the failure of a command
// of LVM that named several. LVM does its work on the others.
func NotFound(err error) []string {
	failed := (*command.Error)(nil)
	if !errors.As(err, &failed) {
		return nil
	}
	var names []string
	for line := range strings.Lines(failed.Stderr) {
		if _, quoted, ok := strings.Cut(line, `Failed to find logical volume "`); ok {
			name, _, _ := strings.Cut(quoted, `"`)
			names = append(names, name)
		}
	}
	return names
}

// Refresh reloads the tables of volumes from LVM's metadata. This starts the deferred merge of an origin that nothing
// holds open any more. If something still does, the merge stays deferred, and that is no error. Faults: not_found,
// command_failed.
func (l *LVM) Refresh(ctx context.Context, volumes ...string) error {
	return l.onVolumes(ctx, volumes, "lvchange", "--refresh")
}

// Poll has LVM watch the merges into origins again, and finish those that the kernel has completed. This is necessary
// after LVM's own poller has died. Faults: not_found, command_failed.
func (l *LVM) Poll(ctx context.Context, origins ...string) error {
	return l.onVolumes(ctx, origins, "lvchange", "--poll", "y")
}

// Activate activates volumes, also those with the activation-skip flag. Faults: not_found, command_failed.
func (l *LVM) Activate(ctx context.Context, volumes ...string) error {
	return l.onVolumes(ctx, volumes, "lvchange", "--activate", "y", "--ignoreactivationskip")
}

// onVolumes runs one lvm command on all of the volumes. Without volumes it does nothing, because LVM would take an
// empty list for every volume of the host.
func (l *LVM) onVolumes(ctx context.Context, volumes []string, subcommand string, options ...string) error {
	_, err := l.onVolumesOutput(ctx, volumes, subcommand, options...)
	return err
}

// onVolumesOutput is onVolumes that also returns what the command prints.
func (l *LVM) onVolumesOutput(
	ctx context.Context, volumes []string, subcommand string, options ...string,
) (command.Output, error) {
	if len(volumes) == 0 {
		return command.Output{}, nil
	}
	for _, volume := range volumes {
		if _, _, err := ParseName(volume); err != nil {
			return command.Output{}, fmt.Errorf("%s: %w", subcommand, err)
		}
	}
	argv := append([]string{"lvm", subcommand}, options...)
	argv = append(argv, "--")
	return l.changeLocked(ctx, Locks{}, append(argv, volumes...)...)
}

// exitedWithError reports whether err says that a program ran and exited with a code other than 0.
func exitedWithError(err error) bool {
	failed := (*command.Error)(nil)
	return errors.As(err, &failed) && failed.Code > 0
}
