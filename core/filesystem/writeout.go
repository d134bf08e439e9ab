package filesystem

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// syncfs writes a file system's dirty pages out. Tests have one that hangs.
var syncfs = func(point string) {
	fd, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Syncfs(fd)
}

// WriteOut has file systems write out what is only in memory, all at the same time, while programs may still write:
// a suspend, a freeze and an unmount write what is left, and whoever is kept from writing waits for that. It returns
// the points at which that had not ended after limit, or by the end of ctx; there it goes on beside what comes next.
func WriteOut(ctx context.Context, points []string, limit time.Duration) (late []string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	written, write := make([]chan struct{}, len(points)), syncfs
	for i, point := range points {
		written[i] = make(chan struct{})
		go func() { // it cannot be ended: the kernel waits for the device
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
