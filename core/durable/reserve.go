package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve sets aside bytes of the file system that dir lies on, in a file without a name: Close gives them back, and
// so does the end of the process, however it ends. What is more than there is free is refused before anything is
// allocated: the kernel would allocate all there is first, and for that moment nobody could write to that file system.
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

// Full reports whether a write failed for want of room: on the file system, or in the quota of whoever writes.
func Full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Free is how many bytes root can still write to the file system that dir lies on. ext4 keeps blocks for itself that
// nobody is given, and counts them as free: a fiftieth, at most 4096 (ext4_calculate_resv_clusters in the kernel's
// fs/ext4/super.c).
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
