package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
)

// marksDir has a file for each file system that this program freezes, from before the freeze until after the thaw. The
// directory is in memory, because a boot ends every freeze. A frozen file system without a mark was frozen by another
// program, and this program must not thaw it.
const marksDir = "/run/rewind/frozen"

// freezeMark is the path of the file for one file system. If it is empty, no file is written.
type freezeMark string

func markOf(dir string, dev Dev) freezeMark { return freezeMark(filepath.Join(dir, dev.String())) }

// set must be called before the freeze: a process that is killed during the FIFREEZE may have frozen the file system.
func (m freezeMark) set() error {
	if m == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(string(m)), 0o700); err != nil {
		return fault.New(fault.Internal, "note what is frozen: %w", err)
	}
	if err := os.WriteFile(string(m), nil, 0o600); err != nil {
		return fault.New(fault.Internal, "note what is frozen: %w", err)
	}
	return nil
}

// clear must be called when the file system is thawed, or turns out to be frozen by another program.
func (m freezeMark) clear() {
	if m != "" {
		_ = os.Remove(string(m))
	}
}

func (m freezeMark) isSet() bool {
	_, err := os.Lstat(string(m))
	return !errors.Is(err, fs.ErrNotExist)
}
