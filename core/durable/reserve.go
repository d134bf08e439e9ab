package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve allocates space on the file system of dir, in a file without a name. Closing the file frees the space, and so
// does the end of the process, however it ends.
//
// If fewer bytes are free, the error is ENOSPC and nothing is allocated. The kernel would first allocate all that is
// free before it refuses, and nobody could write to the file system at that moment.
func Reserve(dir string, bytes int64) (*os.File, error) {
	free, err := Free(dir)
	if err != nil {
		return nil, err
	}
	if bytes > free {
		return nil, fmt.Errorf("reserve %d bytes in %s: %w, %d bytes are free", bytes, dir, unix.ENOSPC, free)
	}
	f, err := os.CreateTemp(dir, ".reserve")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil {
		f.Close()
		return nil, fmt.Errorf("reserve %d bytes in %s: %w", bytes, dir, err)
	}
	return f, nil
}

// IsFull reports whether err means that there is no room left, on the file system or in the quota of the user who
// writes.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Free returns how many bytes root can still write to the file system of dir. ext4 counts blocks as free that it
// reserves for itself and gives to nobody, not even root: one in fifty, 4096 at most (ext4_calculate_resv_clusters in
// the kernel's fs/ext4/super.c). Free does not count them.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	blocks := int64(st.Bfree)
	if st.Type == unix.EXT4_SUPER_MAGIC {
		blocks = max(0, blocks-min(int64(st.Blocks)/50, 4096))
	}
	return blocks * int64(st.Bsize), nil
}
