package journey

import (
	"encoding/hex"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
)

// BinDir holds the programs that units run: the module itself may lie in a temporary folder that is gone by then.
const BinDir = State + "/bin"

// keepBin is how long a program that is no longer used stays: a unit that was started from it may still need it.
const keepBin = 30 * 24 * time.Hour

// install puts a copy of the running program where it survives a power cut and returns its path.
func install() (string, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	defer self.Close()
	hash := fnv.New64a() // tells versions apart, no more: only root writes here
	if _, err := io.Copy(hash, self); err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	path := filepath.Join(BinDir, "rewind-"+hex.EncodeToString(hash.Sum(nil)))
	if now := time.Now(); os.Chtimes(path, now, now) == nil {
		return path, nil
	}
	if _, err := self.Seek(0, io.SeekStart); err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	if err := durable.MkdirAll(BinDir, 0o700); err != nil {
		return "", err
	}
	if err := durable.Install(path, self, 0o700); err != nil {
		return "", err
	}
	removeOld()
	return path, nil
}

// removeOld removes old programs, unless something is unfinished: what finishes it, such as a boot guard, may be one of
// them, however long ago it was begun.
func removeOld() {
	j, err := journal.Open(JournalDir)
	if err != nil {
		return
	}
	if unfinished, err := j.Unfinished(); err != nil || len(unfinished) > 0 {
		return
	}
	files, _ := os.ReadDir(BinDir)
	for _, f := range files {
		info, err := f.Info()
		if err == nil && strings.HasPrefix(f.Name(), "rewind-") && time.Since(info.ModTime()) > keepBin {
			_ = os.Remove(filepath.Join(BinDir, f.Name()))
		}
	}
}

// appears returns a channel that is closed when the file is there, and one that tells of other files that were put beside it.
// stop ends the watch.
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
