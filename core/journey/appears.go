package journey

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// appears returns a channel that is closed when the file is there, and one that tells of other files that were put
// beside it. stop ends the watch.
func appears(path string) (there, others <-chan struct{}, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, nil, fault.New(fault.Internal, "inotify: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MOVED_TO); err != nil {
		watch.Close()
		return nil, nil, nil, fault.New(fault.Internal, "watch %s: %w", filepath.Dir(path), err)
	}
	done, news := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				close(done)
				return
			}
			select {
			case news <- struct{}{}:
			default: // nobody has looked at the last ones yet
			}
			if _, err := watch.Read(buf); err != nil {
				return // stopped
			}
		}
	}()
	return done, news, func() { watch.Close() }, nil
}
