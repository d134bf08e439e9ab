package filesystem

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// mountLimit is long, because a mount may have to replay the file system's log first, and during a merge the kernel
// reads that log through the snapshot.
const mountLimit = 10 * time.Minute

// MountSpec describes a mount that is to be made.
type MountSpec struct {
	Source  string   `json:"source"` // the device
	Point   string   `json:"point"`
	Type    string   `json:"type,omitempty"` // empty: mount(8) finds it out
	Options []string `json:"options,omitempty"`
	Bind    string   `json:"bind,omitempty"` // instead of Source: a directory to bind to Point
}

// MountDevice makes the mount by mount(8), which also loads the kernel modules that a file system needs, and starts the
// mount helper of file systems that have one. Fault: mount_failed.
func MountDevice(ctx context.Context, r command.Runner, spec MountSpec) error {
	return mountWhenResumed(ctx, spec.source(), func() error { return mountByProgram(ctx, r, spec) })
}

// source returns what is mounted: the device, or the directory of a bind mount.
func (s MountSpec) source() string {
	if s.Bind != "" {
		return s.Bind
	}
	return s.Source
}

// mountByProgram is MountDevice without a wait for a suspended device.
func mountByProgram(ctx context.Context, r command.Runner, spec MountSpec) error {
	argv := []string{"mount"}
	options, source := spec.Options, spec.source()
	if spec.Bind != "" {
		options = append([]string{"bind"}, options...)
	} else if spec.Type != "" {
		argv = append(argv, "-t", spec.Type)
	}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	argv = append(argv, "--", source, spec.Point)
	log := openKernelLog(kmsgPath)
	defer log.close()
	if _, err := r.Run(ctx, command.Cmd{Argv: argv, Limit: mountLimit, Changes: true}); err != nil {
		return mountFault(err, source, spec, log.messagesAbout(kernelName(source), spec.Type))
	}
	return nil
}

// mountHints has a hint for each known text of mount(8) or the kernel. The first one that occurs in the message counts.
var mountHints = []struct{ says, hint string }{
	{"has duplicate UUID", "a copy of this file system is mounted: the option nouuid lets XFS mount both"},
	{"unknown filesystem type", "the kernel has no driver for it: load its module, or install the package that has it"},
	{"mount point does not exist", "make the directory"},
	{"special device", "the device is not there: `lvs -a` shows whether the volume is active"},
	{"blockdev is frozen", "another program has suspended the device, as `dmsetup info -c` shows: " +
		"wait for it, such as an LVM command (`ps -C lvm,lvextend,dmeventd`), and run the same task again"},
	{busyText, inUseHint},
	{"Can't open blockdev", inUseHint}, // busyText of util-linux 2.41, where another device uses it
	{"nrecognized mount option", "correct the options"},
	{"nknown parameter", "correct the options"},
	{"log device", "the file system has its log on another device: name it with the option logdev=DEVICE"},
	{"journal device", "the file system has its journal on another device, which must be there"},
	{"cannot mount read-only", "the device is read-only, and the file system must be repaired first"},
	{"wrong fs type", checkHint},
	{"tructure needs cleaning", checkHint},
	{"can't read superblock", checkHint},
}

const inUseHint = "something else uses it: `findmnt`, `lsblk`, `lsof` and `fuser -vm` show what"

const checkHint = "look at the file system without changing it: `xfs_repair -n DEVICE`, `e2fsck -n DEVICE`"

// mountFault returns the fault of a mount that failed: the cause that mount(8) gave, the kernel's messages, and a hint.
func mountFault(err error, source string, spec MountSpec, kernel []string) error {
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

// kernelUnmount is umount2(2). Tests replace it by a function that hangs.
var kernelUnmount = unix.Unmount

// Unmount unmounts the topmost mount at point. It never unmounts lazily, which would leave the device open without a
// path to it. It returns when the kernel has written what is in memory, however long that takes. Faults: busy if the
// mount is in use, not_found if point is not a mount point, not_root, mount_failed.
func Unmount(point string) error {
	for {
		err := kernelUnmount(point, unix.UMOUNT_NOFOLLOW)
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

// waitWithin makes a system call and waits for it until ctx ends. A system call cannot be cancelled: after the end of
// ctx it goes on in the background. If ctx has ended already, the call is not made. what names the call in the error,
// such as "the unmount of /dat". Faults: timeout or interrupted at the end of ctx.
func waitWithin(ctx context.Context, what string, call func() error) error {
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
	return fault.New(fault.Timeout,
		"%s was not waited for any longer, and goes on: the kernel waits for its device", what).
		WithHint("look whether the disk answers: `dmesg | tail`; whether a device is suspended: `dmsetup info -c`")
}

// UnmountOf unmounts the topmost mount at point if it is on one of the devices. It is no error if the mount is gone:
// another unmount may have taken it along, where both are below mounts that share what is mounted there, or an
// automount's idle timeout. What is mounted at point then, such as the automount itself, stays. If the unmount has not
// returned when ctx ends, because its device accepts no writes, it goes on in the background. Faults: timeout or
// interrupted at the end of ctx, busy (also if another mount hides it), not_root, mount_failed, internal.
func UnmountOf(ctx context.Context, point string, devs ...Dev) error {
	for notFound := 0; ; {
		mounts, err := Mounts()
		if err != nil {
			return err
		}
		m, ok := At(mounts, point)
		if !ok || !slices.Contains(devs, m.Dev) {
			return nil
		}
		if cover, covered := Cover(mounts, m); covered && notFound == m.ID {
			return CoverFault(point, cover)
		}
		err = waitWithin(ctx, "the unmount of "+point, func() error { return Unmount(point) })
		if !errors.Is(err, fault.NotFound) {
			return err
		}
		notFound = m.ID
	}
}

// shownOnlyOptions are options that the kernel shows but that mount(2) refuses or warns about: they describe a state,
// such as what ext4 did after an error.
var shownOnlyOptions = []string{"seclabel", "attr2", "noquota", "rw", "ro", "emergency_ro", "shutdown"}

// RestoreOptions returns the options that mount the device again as it is mounted now: those of fstab if it names this
// device for this mount point, else those that the kernel shows. A mount that is read-only stays read-only, by the
// option of the mount. The "ro" among the options of the file system does not count: it says only that the file system
// is read-only now, and ext4 may have made it so after an error (errors=remount-ro).
func (m Mount) RestoreOptions(fstab []FstabEntry) []string {
	options := []string{"rw"}
	if m.ReadOnly() {
		options[0] = "ro"
	}
	shown := slices.Concat(splitOptions(m.Options), splitOptions(m.Super))
	if inFstab, ok := m.fstabOptions(fstab); ok {
		shown = inFstab
	}
	for _, o := range shown {
		if !slices.Contains(shownOnlyOptions, o) && !slices.Contains(options, o) && o != "defaults" {
			options = append(options, o)
		}
	}
	return options
}

// ReadOnly reports whether the mount is read-only, even if the file system itself is writable.
func (m Mount) ReadOnly() bool { return slices.Contains(splitOptions(m.Options), "ro") }

// Flags returns the options of the mount itself without "rw". Each mount of a file system, also a bind mount, has its
// own.
func (m Mount) Flags() []string {
	return slices.DeleteFunc(splitOptions(m.Options), func(o string) bool { return o == "rw" })
}

// fstabOptions returns the options of the fstab entry that mounts the same device at the same point. It returns false
// if there is none.
func (m Mount) fstabOptions(fstab []FstabEntry) ([]string, bool) {
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

// xfsQuotaOptions are XFS's quota options. If XFS is mounted without the quota options that are in use, it forgets its
// quota state (lvm2 issue 182).
var xfsQuotaOptions = []string{"usrquota", "uqnoenforce", "grpquota", "gqnoenforce", "prjquota", "pqnoenforce"}

// noExecution are the mount options by which no file can be executed or used as a device.
var noExecution = []string{"nosuid", "nodev", "noexec"}

// restrictingOptions are mount options that restrict what users can do with the files of a file system. nosymfollow
// needs Linux 5.10.
var restrictingOptions = append(slices.Clone(noExecution), "nosymfollow")

// WithoutExecution adds the options nosuid, nodev and noexec if they are missing, for a file system that is only read
// by this program: no file on it can be executed or used as a device.
func WithoutExecution(options []string) []string {
	for _, o := range noExecution {
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	return options
}

// SnapshotOptions returns the options that mount a snapshot of origin, with a file system of type fstype, read-only.
// The restrictions of the origin's mount apply to the snapshot, too. If origin is not mounted (it is empty), its
// restrictions are unknown, and nosuid and nodev are set. With preview the log is not replayed, so that nothing at all
// is written to the snapshot; then changes that are only in the log are not visible.
func SnapshotOptions(fstype string, origin Mount, preview bool) []string {
	options := []string{"ro", "noatime"}
	for _, o := range restrictingOptions {
		unknown := origin.Options == "" && (o == "nosuid" || o == "nodev") // the restrictions of the origin
		if unknown || slices.Contains(splitOptions(origin.Options), o) {
			options = append(options, o)
		}
	}
	switch fstype {
	case "xfs":
		options = append(options, "nouuid") // the origin, which has the same UUID, is mounted too
		for _, o := range splitOptions(origin.Super) {
			if slices.Contains(xfsQuotaOptions, o) {
				options = append(options, o)
			}
		}
		if preview {
			options = append(options, "norecovery")
		}
	case "ext2", "ext3", "ext4":
		// A snapshot that overflows answers with errors. Where the file system says errors=panic, they would end the server.
		options = append(options, "errors=remount-ro")
		if preview && fstype != "ext2" {
			options = append(options, "noload")
		}
	}
	return options
}

// OpenAlone opens the root of the file system that is mounted at m, without what else is mounted in it: each mount
// point there is the directory that is covered by the mount. So nobody has to look at a FUSE mount that lets in nobody
// but its user, or waits for the server of a network's file system. While the file is open, the file system stays in
// use. Fault: mount_failed, also if another file system is mounted over it.
func OpenAlone(m Mount) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fault.New(fault.MountFailed, "open what is mounted at %s: %w", m.Point, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && DevOf(st.Dev) != m.Dev {
		err = errors.New("something else is mounted over it")
	}
	if err != nil {
		unix.Close(fd)
		return nil, fault.New(fault.MountFailed, "open what is mounted at %s: %w", m.Point, err)
	}
	return os.NewFile(uintptr(fd), m.Point), nil
}
