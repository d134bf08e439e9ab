package journey

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// watchFor returns two channels. appeared is closed when the file at path exists. changed gets a value at the start and
// after other files were moved into the directory of path; several moves may give one value. stop ends the watch.
func watchFor(path string) (appeared, changed <-chan struct{}, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, nil, fault.New(fault.Internal, "inotify: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MOVED_TO); err != nil {
		watch.Close()
		return nil, nil, nil, fault.New(fault.Internal, "watch %s: %w", filepath.Dir(path), err)
	}
	found, moved := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				close(found)
				return
			}
			select {
			case moved <- struct{}{}:
			default: // the reader has not received the last value yet
			}
			if _, err := watch.Read(buf); err != nil {
				return // stop was called
			}
		}
	}()
	return found, moved, func() { watch.Close() }, nil
}
