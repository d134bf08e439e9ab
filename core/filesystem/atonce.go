package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// errNeedsMountProgram is returned for a mount that one mount(2) call cannot make: mount(8) has to make it.
var errNeedsMountProgram = errors.New("it takes more than one mount(2) call")

// directTypes are the file systems that can be mounted without a helper program (mount.TYPE).
var directTypes = []string{"ext2", "ext3", "ext4", "xfs"}

// kernelFlags maps mount options to the flags of mount(2). An option that clears a flag, such as "rw" or "dev", has the
// value 0, because no flag is set by default.
var kernelFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
	"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
	"nodev": unix.MS_NODEV, "dev": 0, "nosuid": unix.MS_NOSUID, "suid": 0,
	"noexec": unix.MS_NOEXEC, "exec": 0, "sync": unix.MS_SYNCHRONOUS, "async": 0, "dirsync": unix.MS_DIRSYNC,
}

// userspaceOptions are options that are not meant for the kernel and can be left out: fstab(5), systemd.mount(5).
var userspaceOptions = []string{"defaults", "auto", "noauto", "nofail", "_netdev", "nouser"}

// MountAtOnce makes the mount by one mount(2) call and does not start mount(8): while services are down, the time
// counts that a process takes to start. An error means that nothing was mounted. The caller should then try
// MountDevice, which can make more kinds of mounts and returns a fault that explains the cause. The exceptions are the
// faults timeout and interrupted, which mean that ctx ended: the mount(2) call may still be running, and MountDevice
// should not be tried.
func MountAtOnce(ctx context.Context, spec MountSpec) error {
	flags, data, err := spec.mountArguments()
	if err != nil {
		return err
	}
	source, err := mapperPath(spec.Source, "/sys")
	if err != nil {
		return err
	}
	return mountWhenResumed(ctx, source, func() error {
		return waitWithin(ctx, "the mount of "+spec.Point, func() error {
			return unix.Mount(source, spec.Point, spec.Type, flags, data)
		})
	})
}

// Reflag gives an existing bind mount at spec.Point the flags of spec.Options, such as ro and noexec, by a remount.
// Fault: mount_failed.
func Reflag(spec MountSpec) error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND)
	for _, o := range spec.Options {
		flags |= kernelFlags[o]
	}
	if err := unix.Mount("", spec.Point, "", flags, ""); err != nil {
		return fault.New(fault.MountFailed, "mount %s with %s: %w", spec.Point, strings.Join(spec.Options, ","), err).
			WithHint("mount -o remount,bind,%s %s", strings.Join(spec.Options, ","), spec.Point)
	}
	return nil
}

// mountArguments returns the flags and the data of a mount(2) call: data holds the options that the file system itself
// reads, separated by commas. It returns errNeedsMountProgram if mount(8) is needed.
func (s MountSpec) mountArguments() (flags uintptr, data string, err error) {
	if s.Bind != "" || !slices.Contains(directTypes, s.Type) {
		return 0, "", errNeedsMountProgram
	}
	var fsOptions []string
	for _, o := range s.Options {
		flag, isFlag := kernelFlags[o]
		switch {
		case isFlag:
			flags |= flag
		case slices.Contains(userspaceOptions, o), strings.HasPrefix(o, "x-systemd."), strings.HasPrefix(o, "comment="):
		case strings.HasPrefix(strings.ToLower(o), "x-"), strings.ContainsAny(o, `"\`),
			slices.Contains(libmountOptions, strings.SplitN(o, "=", 2)[0]):
			return 0, "", errNeedsMountProgram
		default:
			fsOptions = append(fsOptions, o)
		}
	}
	return flags, strings.Join(fsOptions, ","), nil
}

// libmountOptions are options that mount(8) itself acts on, in addition to its X-mount.* options.
var libmountOptions = []string{
	"user", "users", "owner", "group", "loop", "offset", "sizelimit", "helper", "uhelper",
	"context", "fscontext", "defcontext", "rootcontext",
}

// mapperPath returns the path that mount(8) uses for a device-mapper device, /dev/mapper/NAME, so that the mount table
// shows the same source as after a mount by mount(8).
func mapperPath(device, sysfs string) (string, error) {
	node, err := filepath.EvalSymlinks(device)
	if err != nil {
		return "", err
	}
	name, err := os.ReadFile(filepath.Join(sysfs, "class/block", filepath.Base(node), "dm/name"))
	if err != nil {
		return "", err
	}
	return "/dev/mapper/" + strings.TrimSpace(string(name)), nil
}
