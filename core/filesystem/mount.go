package filesystem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// mountLimit is long because a mount may replay a file system's log first, and
// through the COW of a merge at that.
const mountLimit = 10 * time.Minute

// MountSpec is one mount to be made.
type MountSpec struct {
	Source  string   `json:"source"` // the device
	Point   string   `json:"point"`
	Type    string   `json:"type,omitempty"` // empty: as mount(8) finds out
	Options []string `json:"options,omitempty"`
	Bind    string   `json:"bind,omitempty"` // instead of Source: a directory that is to be seen at Point too
}

// MountDevice mounts by mount(8), which also loads the modules that a file
// system needs and helps those that have a mount program. It fails with
// mount_failed.
func MountDevice(ctx context.Context, r command.Runner, spec MountSpec) error {
	argv := []string{"mount"}
	options, source := spec.Options, spec.Source
	if spec.Bind != "" {
		options, source = append([]string{"bind"}, options...), spec.Bind
	} else if spec.Type != "" {
		argv = append(argv, "-t", spec.Type)
	}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	argv = append(argv, "--", source, spec.Point)
	log := openKernelLog(kmsg)
	defer log.close()
	if _, err := r.Run(ctx, command.Cmd{Argv: argv, Limit: mountLimit, Changes: true}); err != nil {
		return notMounted(err, source, spec, log.about(kernelName(source), spec.Type))
	}
	return nil
}

// mountHints say what to do about what mount(8) or the kernel says.
var mountHints = []struct{ says, hint string }{
	{"has duplicate UUID", "a copy of this file system is mounted: the option nouuid lets XFS mount both"},
	{"unknown filesystem type", "the kernel has no driver for it: load its module, or install the package that has it"},
	{"mount point does not exist", "make the directory"},
	{"special device", "the device is not there: `lvs -a` shows whether the volume is active"},
	{"already mounted or mount point busy", "something else uses it: `findmnt`, `lsof` and `fuser -vm` show what"},
	{"nrecognized mount option", "correct the options"},
	{"nknown parameter", "correct the options"},
	{"log device", "the file system has its log on another device: name it with the option logdev=DEVICE"},
	{"journal device", "the file system has its journal on another device, which must be there"},
	{"cannot mount read-only", "the device is read-only, and the file system must be repaired first"},
	{"wrong fs type", checkHint},
	{"tructure needs cleaning", checkHint},
	{"can't read superblock", checkHint},
}

const checkHint = "look at the file system without changing it: `xfs_repair -n DEVICE`, `e2fsck -n DEVICE`"

// notMounted is the fault of a mount: mount's cause, the kernel's own words, and what to do.
func notMounted(err error, source string, spec MountSpec, kernel []string) error {
	f := fault.New(fault.MountFailed, "mount %s on %s: %w", source, spec.Point, err)
	if len(kernel) > 0 {
		f.Msg += "; the kernel: " + strings.Join(kernel, "; ")
		f.With("kernel", kernel)
	}
	for _, known := range mountHints {
		if f.Hint == "" && strings.Contains(f.Msg, known.says) {
			f.WithHint("%s", known.hint)
		}
	}
	return f
}

// umount is the kernel's. Tests have one that hangs.
var umount = unix.Unmount

// Unmount unmounts what is seen at point, at once and really: never lazily,
// which would leave the device open behind a name that is gone. Whoever still
// uses it makes it fail with busy. It takes as long as the kernel writes what is
// in memory.
func Unmount(point string) error {
	for {
		err := umount(point, unix.UMOUNT_NOFOLLOW)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EBUSY:
			return fault.New(fault.Busy, "unmount %s: %w", point, err)
		case unix.EINVAL, unix.ENOENT:
			return fault.New(fault.NotFound, "unmount %s: not a mount point: %w", point, err)
		case unix.EPERM:
			return fault.New(fault.NotRoot, "unmount %s: %w", point, err)
		}
		return fault.New(fault.MountFailed, "unmount %s: %w", point, err)
	}
}

// within waits for a call of the kernel's until ctx ends. The call cannot be ended: it goes on beside what comes next.
// At the end of ctx none is made.
func within(ctx context.Context, what string, call func() error) error {
	if ctx.Err() != nil {
		return fault.New(fault.Of(ctx.Err()).Code, "%s was not begun: %w", what, ctx.Err())
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Interrupted, "%s goes on, and this run was asked to end: %w", what, ctx.Err())
	}
	return fault.New(fault.Timeout, "%s was not waited for any longer, and goes on: the kernel waits for its device", what).
		WithHint("look whether the disk answers: `dmesg | tail`; whether a device is suspended: `dmsetup info -c`")
}

// UnmountOf unmounts what is seen at point if it is on one of the devices. It may have gone since the caller looked:
// with another mount, where both are below mounts that share what is mounted there, or by an automount's idle
// timeout. That is no error, and what is seen then, such as the automount itself, is left alone. An unmount that does not
// end by the end of ctx, since its device takes nothing, goes on, and is a timeout.
func UnmountOf(ctx context.Context, point string, devs ...Dev) error {
	for {
		mounts, err := Mounts()
		if err != nil {
			return err
		}
		if m, ok := At(mounts, point); !ok || !slices.Contains(devs, m.Dev) {
			return nil
		}
		err = within(ctx, "the unmount of "+point, func() error { return Unmount(point) })
		if !errors.Is(err, fault.NotFound) {
			return err
		}
	}
}

// notGiven are options that the kernel shows but mount(2) refuses or warns of: they say what is the case anyway, such
// as what ext4 did at an error.
var notGiven = []string{"seclabel", "attr2", "noquota", "rw", "ro", "emergency_ro", "shutdown"}

// RestoreOptions returns the options that mount the same device at the same
// place as it is mounted now: those of fstab if it names this device for this
// point, else those that the kernel shows. What was mounted read-only stays so:
// that is an option of the mount. The file system's own says no more than that it
// is read-only now, which ext4 makes it at an error (errors=remount-ro).
func (m Mount) RestoreOptions(fstab []FstabEntry) []string {
	options := []string{"rw"}
	if m.ReadOnly() {
		options[0] = "ro"
	}
	shown := slices.Concat(splitOptions(m.Options), splitOptions(m.Super))
	if listed, ok := m.listed(fstab); ok {
		shown = listed
	}
	for _, o := range shown {
		if !slices.Contains(notGiven, o) && !slices.Contains(options, o) && o != "defaults" {
			options = append(options, o)
		}
	}
	return options
}

// ReadOnly says that it was mounted read-only, whatever the file system is now.
func (m Mount) ReadOnly() bool { return slices.Contains(splitOptions(m.Options), "ro") }

// Flags returns the options of the mount itself, which a bind mount has, too: of one file system each mount has its
// own.
func (m Mount) Flags() []string {
	return slices.DeleteFunc(splitOptions(m.Options), func(o string) bool { return o == "rw" })
}

func (m Mount) listed(fstab []FstabEntry) ([]string, bool) {
	for _, e := range fstab {
		if e.Point != m.Point {
			continue
		}
		if dev, ok := e.Device(); ok && dev == m.Dev {
			return e.Options, true
		}
	}
	return nil, false
}

// xfsQuota are XFS's quota options. A mount without those that the file system
// has on forgets its quota state (lvm2 issue 182).
var xfsQuota = []string{"usrquota", "uqnoenforce", "grpquota", "gqnoenforce", "prjquota", "pqnoenforce"}

// restrictions are the options that keep users from doing more with a file system's files than is wanted of them.
var restrictions = []string{"nosuid", "nodev", "noexec", "nosymfollow"}

// Inert adds options by which nothing on a file system can be run or used as a device: for what only we look into.
func Inert(options []string) []string {
	for _, o := range restrictions[:3] { // nosymfollow takes Linux 5.10
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	return options
}

// SnapshotOptions returns the options that mount a snapshot of origin, with a
// file system of that type, for reading; what the origin's users may not do, they
// may not do there; of one that is not mounted that is not known, and they get neither set-user-ID programs nor devices. With preview the log is not replayed
// either, so that nothing at all is written to the snapshot; what is read may
// then lack what was in the log.
func SnapshotOptions(fstype string, origin Mount, preview bool) []string {
	options := []string{"ro", "noatime"}
	for _, o := range restrictions {
		unknown := origin.Options == "" && (o == "nosuid" || o == "nodev") // what its users may do
		if unknown || slices.Contains(splitOptions(origin.Options), o) {
			options = append(options, o)
		}
	}
	switch fstype {
	case "xfs":
		options = append(options, "nouuid") // the origin with the same UUID is mounted too
		for _, o := range splitOptions(origin.Super) {
			if slices.Contains(xfsQuota, o) {
				options = append(options, o)
			}
		}
		if preview {
			options = append(options, "norecovery")
		}
	case "ext3", "ext4":
		if preview {
			options = append(options, "noload")
		}
	}
	return options
}
