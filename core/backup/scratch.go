package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// presenting begins the names of the directories in which this host lays backups out to be read. The place may be shared
// with others, whose locks a network's file system may not show.
func presenting() string {
	host, _ := os.Hostname()
	return "rewind-presenting-" + host + "-"
}

// Room is a directory of its own in a place that has room for a whole backup. It is held by an open descriptor, so
// that a later run knows it from one whose owner was killed.
type Room struct {
	Path string
	held *os.File
}

// NewRoom makes a Room in dir.
func NewRoom(dir string) (*Room, error) {
	for {
		path, err := os.MkdirTemp(dir, presenting())
		if err != nil {
			return nil, fault.New(codeOf(err), "make room to lay the backup out: %w", err)
		}
		held, err := hold(path)
		if err == nil {
			return &Room{path, held}, nil
		}
		// Settle may have come between the two steps, and have taken it for a dead one's.
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("hold %s: %w", path, err)
		}
	}
}

func codeOf(err error) fault.Code {
	if errors.Is(err, os.ErrNotExist) {
		return fault.NotFound
	}
	if errors.Is(err, unix.ENOSPC) {
		return fault.NoSpace
	}
	return fault.CommandFailed
}

// hold opens the directory at path and locks it. It is an error if another holds it, or if it is there no more.
func hold(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = os.Lstat(path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Close removes the Room with all that is in it.
func (r *Room) Close() error {
	defer r.held.Close()
	return os.RemoveAll(r.Path)
}

// SettleRooms removes the Rooms in dir whose owners, on this host, have ended. A dir that is absent holds none.
func SettleRooms(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for what was laid out: %w", err)
	}
	own := presenting()
	var all []error
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), own) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		held, err := hold(path)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.EWOULDBLOCK):
			continue
		case err != nil:
			all = append(all, fmt.Errorf("hold %s: %w", path, err))
			continue
		}
		all = append(all, (&Room{path, held}).Close())
	}
	return errors.Join(all...)
}
