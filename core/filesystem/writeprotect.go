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

// WriteProtected reports whether a block device is read-only: writes to it fail, and a file system on it can only be
// mounted read-only. Fault: not_found if there is no such device.
func WriteProtected(dev Dev) (bool, error) {
	flag, err := os.ReadFile(filepath.Join(blockDir("/sys", dev), "ro"))
	if err != nil {
		return false, noDevice(dev, err)
	}
	return strings.TrimSpace(string(flag)) == "1", nil
}

// WriteProtect makes a block device read-only or, if on is false, writable (BLKROSET, like blockdev --setro and
// --setrw). It does not stop what device-mapper does below the device, such as a merge. The setting lasts until it is
// changed, the device is removed or the server boots; before Linux 5.12 device-mapper also resets it when it swaps the
// device's tables. Before the device becomes writable, the kernel drops its cached pages of it (BLKFLSBUF), because the
// content may have changed below. It needs root. Fault: not_found if there is no such device, else what fault.Of finds
// in the error.
func WriteProtect(dev Dev, on bool) error {
	name, err := os.Readlink(blockDir("/sys", dev))
	if err != nil {
		return noDevice(dev, err)
	}
	f, err := os.Open("/dev/" + filepath.Base(name)) // the device node that the kernel made
	if err != nil {
		return noDevice(dev, err)
	}
	defer f.Close() // while the device is open, LVM neither merges into it nor removes it
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
