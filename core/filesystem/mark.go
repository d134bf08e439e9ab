package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
)

// marks is where each file system that this program freezes has a file, from
// before the freeze until after the thaw. It lies in memory: a boot ends every
// freeze. What has no mark was frozen by somebody else, and is theirs to thaw.
const marks = "/run/rewind/frozen"

// mark is the file of one file system; an empty one is none.
type mark string

func markOf(dir string, dev Dev) mark { return mark(filepath.Join(dir, dev.String())) }

// set is called before the freeze: a process that is killed in it may have frozen the file system all the same.
func (m mark) set() error {
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

// clear is called when the file system is thawed, or was frozen by somebody else.
func (m mark) clear() {
	if m != "" {
		_ = os.Remove(string(m))
	}
}

func (m mark) isSet() bool {
	_, err := os.Lstat(string(m))
	return !errors.Is(err, fs.ErrNotExist)
}
