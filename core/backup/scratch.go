package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
)

// roomPrefix is how the names of this host's Rooms begin. It contains the host's name because several hosts may use the
// same place, and a network file system may not show this host the locks of the others.
func roomPrefix() string {
	host, _ := os.Hostname()
	return "rewind-presenting-" + host + "-"
}

// isOwnRoom reports whether name is that of a Room of this host. After the prefix os.MkdirTemp puts nothing but digits;
// db-1 also begins with db and a dash.
func isOwnRoom(name string) bool {
	number, ok := strings.CutPrefix(name, roomPrefix())
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// Room is a directory in which a backup is laid out to be read, in a place that has room for a whole backup. Its owner
// keeps it locked through an open descriptor, so that a later run can tell it from a Room whose owner was killed.
type Room struct {
	Path string
	lock *lock.Lock // of the directory
}

// NewRoom makes a Room in dir. The caller closes it. Faults: not_found if dir does not exist, no_space, command_failed.
func NewRoom(dir string) (*Room, error) {
	for {
		path, err := os.MkdirTemp(dir, roomPrefix())
		if err != nil {
			return nil, fault.New(codeOf(err), "make room to lay the backup out: %w", err)
		}
		l, err := lock.Exclusive(path)
		if err == nil {
			_, err = os.Lstat(path)
		}
		if err == nil {
			return &Room{path, l}, nil
		}
		// Between the two steps SettleRooms may have taken the directory for that of a killed owner: then try again.
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, lock.ErrHeld) {
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

// Close removes the Room with its content, and releases its lock.
func (r *Room) Close() error {
	defer r.lock.Release()
	return os.RemoveAll(r.Path)
}

// SettleRooms removes this host's Rooms in dir whose owners have ended. It returns nil if dir does not exist.
func SettleRooms(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for what was laid out: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if !isOwnRoom(entry.Name()) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		l, err := lock.Exclusive(path)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, lock.ErrHeld):
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("hold %s: %w", path, err))
			continue
		}
		errs = append(errs, (&Room{path, l}).Close())
	}
	return errors.Join(errs...)
}
