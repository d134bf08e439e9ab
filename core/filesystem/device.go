package filesystem

import (
	"io/fs"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// BlockDevice returns the number of the block device at path, following symbolic links. Faults: not_found if there is
// nothing at path, bad_arguments if that is no block device.
func BlockDevice(path string) (Dev, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Dev{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Dev{}, fault.New(fault.BadArguments, "%s is no block device", path)
	}
	return devOf(st.Rdev), nil
}
