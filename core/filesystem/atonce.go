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

// errIndirect says that mount(8) has to do it.
var errIndirect = errors.New("more than one call of the kernel's")

// direct are the file systems that need no program of their own to be mounted.
var direct = []string{"ext2", "ext3", "ext4", "xfs"}

// flags are the options that are flags to the kernel (mount(2)). Those with "no" before a name that take a flag away are
// 0: none is set by default.
var flags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME, "nodev": unix.MS_NODEV, "dev": 0, "nosuid": unix.MS_NOSUID, "suid": 0,
	"noexec": unix.MS_NOEXEC, "exec": 0, "sync": unix.MS_SYNCHRONOUS, "async": 0, "dirsync": unix.MS_DIRSYNC,
}

// unheard are the options that speak to others than the kernel: fstab(5), systemd.mount(5).
var unheard = []string{"defaults", "auto", "noauto", "nofail", "_netdev", "nouser"}

// MountAtOnce mounts by the kernel's own call, without starting mount(8): while services are down, a process that takes
// longer to start than to make its one call counts. An error means that nothing was mounted, and that MountDevice is to
// be asked: it can do more, and says what is wrong. At the end of ctx (timeout, interrupted) it need not be asked: this
// mount goes on.
func MountAtOnce(ctx context.Context, spec MountSpec) error {
	set, data, err := spec.call()
	if err != nil {
		return err
	}
	source, err := mapped(spec.Source, "/sys")
	if err != nil {
		return err
	}
	return within(ctx, "the mount of "+spec.Point, func() error {
		return unix.Mount(source, spec.Point, spec.Type, set, data)
	})
}

// Reflag gives a bind mount that is there the flags of its spec, such as ro and noexec.
func Reflag(spec MountSpec) error {
	set := uintptr(unix.MS_REMOUNT | unix.MS_BIND)
	for _, o := range spec.Options {
		set |= flags[o]
	}
	if err := unix.Mount("", spec.Point, "", set, ""); err != nil {
		return fault.New(fault.MountFailed, "mount %s with %s: %w", spec.Point, strings.Join(spec.Options, ","), err).
			WithHint("mount -o remount,bind,%s %s", strings.Join(spec.Options, ","), spec.Point)
	}
	return nil
}

// call returns the flags and the file system's own options; errIndirect where there are others.
func (s MountSpec) call() (set uintptr, data string, err error) {
	if s.Bind != "" || !slices.Contains(direct, s.Type) {
		return 0, "", errIndirect
	}
	var own []string
	for _, o := range s.Options {
		flag, is := flags[o]
		switch {
		case is:
			set |= flag
		case slices.Contains(unheard, o), strings.HasPrefix(o, "x-systemd."), strings.HasPrefix(o, "comment="):
		case strings.HasPrefix(strings.ToLower(o), "x-"), strings.ContainsAny(o, `"\`), slices.Contains(libmount, strings.SplitN(o, "=", 2)[0]):
			return 0, "", errIndirect
		default:
			own = append(own, o)
		}
	}
	return set, strings.Join(own, ","), nil
}

// libmount are options that mount(8) acts on itself, beside its X-mount.*.
var libmount = []string{"user", "users", "owner", "group", "loop", "offset", "sizelimit", "helper", "uhelper", "context", "fscontext", "defcontext", "rootcontext"}

// mapped returns the name that mount(8) gives a device-mapper device, so that mount tables stay as they are.
func mapped(device, sysfs string) (string, error) {
	real, err := filepath.EvalSymlinks(device)
	if err != nil {
		return "", err
	}
	name, err := os.ReadFile(filepath.Join(sysfs, "class/block", filepath.Base(real), "dm/name"))
	if err != nil {
		return "", err
	}
	return "/dev/mapper/" + strings.TrimSpace(string(name)), nil
}
