package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// WriteProtected tells whether a block device can only be read: what a program
// writes to it fails, and what is mounted from it is mounted read-only. not_found
// if there is no such device.
func WriteProtected(dev Dev) (bool, error) {
	flag, err := os.ReadFile(filepath.Join(blockDir("/sys", dev), "ro"))
	if err != nil {
		return false, noDevice(dev, err)
	}
	return strings.TrimSpace(string(flag)) == "1", nil
}

// WriteProtect makes a block device one that can only be read, or ends that
// (BLKROSET, as blockdev --setro). What device-mapper does below it, such as a
// merge, goes on. It lasts until it is ended, the device is removed or the
// server is booted; before Linux 5.12 device-mapper ends it when it swaps tables.
// Before it ends, the kernel forgets what it keeps in memory of the device
// (BLKFLSBUF): what lies on it may have changed below. It needs root.
func WriteProtect(dev Dev, on bool) error {
	name, err := os.Readlink(blockDir("/sys", dev))
	if err != nil {
		return noDevice(dev, err)
	}
	f, err := os.Open("/dev/" + filepath.Base(name)) // the kernel's own node
	if err != nil {
		return noDevice(dev, err)
	}
	defer f.Close() // as long as it is open, LVM neither merges into the device nor removes it
	fd, value := int(f.Fd()), 1
	if !on {
		value, err = 0, unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.BLKROSET, value)
	}
	if err != nil {
		return fault.New(fault.Of(err).Code, "%s: %w", f.Name(), err)
	}
	return nil
}

func noDevice(dev Dev, err error) error {
	code := fault.Of(err).Code
	if errors.Is(err, fs.ErrNotExist) {
		code = fault.NotFound
	}
	return fault.New(code, "block device %s: %w", dev, err)
}
