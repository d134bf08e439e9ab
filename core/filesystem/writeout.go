package filesystem

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// syncfs writes out the dirty pages of the file system at point. Tests replace it by a function that hangs.
var syncfs = func(point string) {
	fd, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Syncfs(fd)
}

// WriteOut writes out the dirty pages of the file systems at points, all at the same time, while programs can still
// write. A later suspend, freeze or unmount then has less to write, and writers wait for a shorter time. WriteOut
// returns the points whose file systems were not written out after limit or at the end of ctx; there the writing goes
// on in the background.
func WriteOut(ctx context.Context, points []string, limit time.Duration) (late []string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	written, write := make([]chan struct{}, len(points)), syncfs
	for i, point := range points {
		written[i] = make(chan struct{})
		go func() { // syncfs(2) cannot be cancelled: the kernel waits for the device
			defer close(written[i])
			write(point)
		}()
	}
	for i, point := range points {
		select {
		case <-written[i]:
			continue
		default:
		}
		select {
		case <-written[i]:
		case <-ctx.Done():
			late = append(late, point)
		}
	}
	return late
}
