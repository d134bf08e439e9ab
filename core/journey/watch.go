package journey

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watchFor returns two channels. appeared is closed when the file at path exists. changed gets a value at the start and
// after other files were moved into the directory of path; several moves may give one value. stop ends the watch.
func watchFor(path string) (appeared, changed <-chan struct{}, stop func()) {
	await, stop := changesIn(filepath.Dir(path))
	found, moved := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		for {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				close(found)
				return
			}
			select {
			case moved <- struct{}{}:
			default: // the reader has not received the last value yet
			}
			if !await() {
				return
			}
		}
	}()
	return found, moved, stop
}

// changesIn returns await, which waits until a file was moved into the directory, or until stop was called, and then
// returns false.
func changesIn(dir string) (await func() bool, stop func()) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return ticks()
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO); err != nil {
		watch.Close()
		return ticks()
	}
	buf := make([]byte, 4096)
	return func() bool { _, err := watch.Read(buf); return err == nil }, func() { watch.Close() }
}

// ticks stands in for changesIn on a server on which others use all that the kernel has for watching files: root, too,
// has 128 instances of inotify (fs.inotify.max_user_instances), and some containers use many. await waits for as long
// as somebody who looks at the progress does not mind.
func ticks() (await func() bool, stop func()) {
	stopped := make(chan struct{})
	await = func() bool {
		select {
		case <-stopped:
			return false
		case <-time.After(200 * time.Millisecond):
			return true
		}
	}
	return await, func() { close(stopped) }
}
