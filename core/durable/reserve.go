package durable

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve sets aside bytes of the file system that dir lies on, in a file without a name: Close gives them back, and
// so does the end of the process, however it ends.
func Reserve(dir string, bytes int64) (*os.File, error) {
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
