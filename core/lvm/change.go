package lvm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Volumes are named vg/lv here, as Volume.FullName gives it.

// Create says what snapshot to take.
type Create struct {
	VG, Origin, Name string
	Extents          int64 // COW space; 0: a thin snapshot, which needs none
	ChunkBytes       int64 // of a thick snapshot; 0: Chunk
	Tags             []string

	// Inactive leaves a thin snapshot without a device, as an Instant needs it, and
	// marks it to be skipped: so udev, which has LVM activate a group whose disks it
	// looks at, leaves it alone. A thick one cannot be inactive.
	Inactive bool
}

// CreateSnapshot takes a snapshot and leaves it active, unless c says otherwise.
// LVM suspends the origin for the moment between the two tables, which also
// flushes and freezes what is mounted on it. COW space beyond MaxCOW is reduced
// to it by LVM.
//
// Faults: exists, no_space, not_found, merging (of the origin), busy (the
// origin's file system is frozen, and kernels before 6.12 cannot suspend such a
// device), pool_damaged, unsupported, command_failed.
//
// After busy a half-made volume of that name and with these tags
// stays behind (without an Origin, State mapped_with_inactive_table), and the
// origin keeps an inner device: Remove the one and Unsuspend the other.
func (l *LVM) CreateSnapshot(ctx context.Context, c Create) error {
	return l.change(ctx, c.argv()...)
}

func (c Create) argv() []string {
	argv := []string{"lvm", "lvcreate", "--yes", "--snapshot", "--name", c.Name}
	switch {
	case c.Extents > 0:
		argv = append(argv, "--extents", strconv.FormatInt(c.Extents, 10), "--chunksize", bytes(c.chunk()))
	case c.Inactive:
		argv = append(argv, "--setactivationskip", "y")
	default:
		// Without this a thin snapshot cannot be activated, so not mounted, by a plain -ay.
		argv = append(argv, "--setactivationskip", "n")
	}
	argv = append(argv, each("--addtag", c.Tags)...)
	return append(argv, "--", c.VG+"/"+c.Origin)
}

func (c Create) chunk() int64 {
	if c.ChunkBytes > 0 {
		return c.ChunkBytes
	}
	return Chunk
}

// bytes writes a size for LVM's size options, where a bare number would be MiB.
func bytes(n int64) string {
	return strconv.FormatInt(n, 10) + "b"
}

// Extend makes a volume, or a thick snapshot's COW space, at least size bytes
// long. It never shrinks: a volume that is as long or longer is left alone, and
// COW space grows up to MaxCOW and no further. An overflowed snapshot can be
// extended and stays invalid. Faults: no_space, not_found, merging, command_failed.
func (l *LVM) Extend(ctx context.Context, volume string, size int64) error {
	// lvextend refuses a size that is no multiple of 512 bytes.
	size = roundUp(size, sector)
	err := l.onVolumes(ctx, []string{volume}, "lvextend", "--yes", "--size", bytes(size))
	if sizeReached(err) {
		return nil
	}
	return err
}

// sizeReached knows the ways in which lvextend(8) says that there is nothing to do.
func sizeReached(err error) bool {
	failed := (*command.Error)(nil)
	if !errors.As(err, &failed) {
		return false
	}
	return strings.Contains(failed.Stderr, "matches existing size") ||
		strings.Contains(failed.Stderr, "No size change.") || // 2.03.31
		strings.Contains(failed.Stderr, "not larger than existing size")
}

// Remove removes volumes in one command. Removing an origin removes its thick
// snapshots with it: the caller hands in snapshots. LVM goes on after one that
// it cannot remove, so after a fault some may be gone. Faults: busy, not_found,
// command_failed.
func (l *LVM) Remove(ctx context.Context, volumes ...string) error {
	return l.onVolumes(ctx, volumes, "lvremove", "--yes")
}

// AddTags gives tags to volumes in one command.
func (l *LVM) AddTags(ctx context.Context, tags []string, volumes ...string) error {
	return l.tag(ctx, "--addtag", tags, volumes)
}

// Unskip takes off volumes the mark that has them skipped when their group is
// activated, and gives them tags, in one command.
func (l *LVM) Unskip(ctx context.Context, tags []string, volumes ...string) error {
	options := append([]string{"--setactivationskip", "n"}, each("--addtag", tags)...)
	return l.onVolumes(ctx, volumes, "lvchange", options...)
}

// DelTags takes tags off volumes in one command; a tag that is not there is no error.
func (l *LVM) DelTags(ctx context.Context, tags []string, volumes ...string) error {
	return l.tag(ctx, "--deltag", tags, volumes)
}

func (l *LVM) tag(ctx context.Context, option string, tags, volumes []string) error {
	if len(tags) == 0 {
		return nil
	}
	return l.onVolumes(ctx, volumes, "lvchange", each(option, tags)...)
}

// each gives an option with every value.
func each(option string, values []string) []string {
	options := make([]string, 0, 2*len(values))
	for _, value := range values {
		options = append(options, option, value)
	}
	return options
}

// Merge asks LVM to merge snapshots into their origins, in the background, by
// one command. That command is neither atomic nor proof: LVM commits one volume
// after the other (in the group's order, not this one), goes on after one that
// it refuses, and defers one whose origin is open, without an error. So whatever
// Merge returns, ask Status (a thick member's origin must show snapshot-merge)
// and Report (a thin member must be gone).
//
// LVM's poller, which outlives the command, looks whether the kernel has done
// its part for the first time after a minute: what it does then, new tables and
// what udev makes of them, would come just when services start. Poll has it done
// earlier. Only LVM's own poller takes the sign that puts it off, not lvmpolld.
//
// Fault: merge_failed, with LVM's words in the facts.
func (l *LVM) Merge(ctx context.Context, snapshots ...string) error {
	err := l.onVolumes(ctx, snapshots, "lvconvert", "--yes", "--merge", "--background",
		"--interval", "+60")
	if err == nil {
		return nil
	}
	if !isExit(err) {
		return err
	}
	return fault.New(fault.MergeFailed, "merge %s: %w", strings.Join(snapshots, ", "), err)
}

// Refresh reloads volumes' tables from the metadata. For an origin whose merge
// was deferred this starts it, if nothing holds it open any more; otherwise it
// changes nothing and is no error.
func (l *LVM) Refresh(ctx context.Context, volumes ...string) error {
	return l.onVolumes(ctx, volumes, "lvchange", "--refresh")
}

// Poll has LVM watch origins' merges again and finish those that the kernel has
// done, as after the death of LVM's own poller.
func (l *LVM) Poll(ctx context.Context, origins ...string) error {
	return l.onVolumes(ctx, origins, "lvchange", "--poll", "y")
}

// Activate makes volumes' devices, also of those marked to be skipped.
func (l *LVM) Activate(ctx context.Context, volumes ...string) error {
	return l.onVolumes(ctx, volumes, "lvchange", "--activate", "y", "--ignoreactivationskip")
}

// onVolumes runs one lvm command on all volumes; on none it does nothing,
// because LVM would take that for all there are.
func (l *LVM) onVolumes(ctx context.Context, volumes []string, name string, options ...string) error {
	if len(volumes) == 0 {
		return nil
	}
	for _, volume := range volumes {
		if _, _, err := ParseName(volume); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	argv := append([]string{"lvm", name}, options...)
	argv = append(argv, "--")
	return l.change(ctx, append(argv, volumes...)...)
}

// isExit reports whether a program ran and ended by itself with an error.
func isExit(err error) bool {
	failed := (*command.Error)(nil)
	return errors.As(err, &failed) && failed.Code > 0
}
