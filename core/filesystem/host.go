package filesystem

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Host is what a rollback asks the kernel of a server, and has it do, so that tests can give it another server. The
// comments of the functions of the same names say more.
type Host interface {
	Mounts() ([]Mount, error)
	// Fstab returns the entries of the server's /etc/fstab.
	Fstab() ([]FstabEntry, error)
	// Names returns every path of a device that udev has made.
	Names(dev Dev) []string
	// Device is BlockDevice.
	Device(path string) (Dev, error)
	// Open opens a block device for reading. LVM does not merge into a device that is open.
	Open(path string) (io.Closer, error)
	Holders(ctx context.Context, devs []Dev, ownMounts []Mount) ([]Holder, error)
	WriteOut(ctx context.Context, points []string, limit time.Duration) (late []string)
	// Mount makes a mount, by one mount(2) call if that is possible, and otherwise by mount(8), which r runs. Faults:
	// mount_failed; timeout or interrupted if ctx ended, while the mount may still be under way.
	Mount(ctx context.Context, r command.Runner, spec MountSpec) error
	Reflag(spec MountSpec) error
	UnmountOf(ctx context.Context, point string, devs ...Dev) error
	WriteProtected(dev Dev) (bool, error)
	WriteProtect(dev Dev, on bool) error
}

// ThisHost returns the server that the program runs on.
func ThisHost() Host { return thisHost{} }

type thisHost struct{}

func (thisHost) Mounts() ([]Mount, error)            { return Mounts() }
func (thisHost) Fstab() ([]FstabEntry, error)        { return Fstab("/etc/fstab") }
func (thisHost) Names(dev Dev) []string              { return Names("/run/udev/data", dev) }
func (thisHost) Device(path string) (Dev, error)     { return BlockDevice(path) }
func (thisHost) Open(path string) (io.Closer, error) { return os.Open(path) }
func (thisHost) Reflag(spec MountSpec) error         { return Reflag(spec) }

func (thisHost) Holders(ctx context.Context, devs []Dev, ownMounts []Mount) ([]Holder, error) {
	return Holders(ctx, devs, ownMounts)
}

func (thisHost) WriteOut(ctx context.Context, points []string, limit time.Duration) (late []string) {
	return WriteOut(ctx, points, limit)
}

func (thisHost) Mount(ctx context.Context, r command.Runner, spec MountSpec) error {
	err := MountAtOnce(ctx, spec)
	switch {
	case err == nil, errors.Is(err, fault.Timeout), errors.Is(err, fault.Interrupted):
		return err // at the end of ctx the mount may still be under way
	case isBusyError(err): // MountAtOnce has waited long enough, and mount(8) says more
		return mountByProgram(ctx, r, spec)
	}
	return MountDevice(ctx, r, spec)
}

func (thisHost) UnmountOf(ctx context.Context, point string, devs ...Dev) error {
	return UnmountOf(ctx, point, devs...)
}

func (thisHost) WriteProtected(dev Dev) (bool, error) { return WriteProtected(dev) }
func (thisHost) WriteProtect(dev Dev, on bool) error  { return WriteProtect(dev, on) }
