package filesystem

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Openat2 calls openat2(2) again as long as it is interrupted.
func Openat2(dir int, path string, how unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// A FUSE mount returns EINTR, and a rename at the same moment EAGAIN.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}
