package record

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
)

// flagsName is the name under which a record keeps the inode flags (chattr(1)) of files and directories, which most
// backends do not store. The list has a backup.FlagLine for each file that has flags. It is stored like the block of a
// directory of this name, and empty lines fill it up to a multiple of entrySize. No directory has this name, because
// directories have absolute paths. A record of an earlier version has no such list.
const flagsName = "flags"

// maxFlagBytes is the maximum length of the list in bytes. A longer list is not kept, and the flags are then unknown.
const maxFlagBytes = 64 << 20

// flagList is the list of inode flags while it is made.
type flagList struct {
	lines   []byte
	tooLong bool
}

func (l *flagList) add(path string, st *unix.Statx_t) {
	f := tree.FlagsOf(st)
	if f == 0 || l.tooLong {
		return
	}
	l.lines = append(l.lines, backup.FlagLine(path, f)...)
	if len(l.lines) > maxFlagBytes {
		l.lines, l.tooLong = nil, true
	}
}

// padded returns the list, filled up with empty lines to a multiple of entrySize.
func (l *flagList) padded() []byte {
	for len(l.lines)%entrySize != 0 {
		l.lines = append(l.lines, '\n')
	}
	return l.lines
}

// Flags returns the inode flags that files and directories had when the backup was made, by path. A file without flags
// is not in the map. Flags returns nil if the flags are not known.
func (r *Record) Flags() map[string]tree.Flags {
	if r == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(r.dirs, keyOf(flagsName), dir.compare)
	if !found || r.dirs[i].count > 2*maxFlagBytes/entrySize {
		return nil
	}
	lines := make([]byte, int64(r.dirs[i].count)*entrySize)
	if _, err := r.file.ReadAt(lines, r.base+r.dirs[i].offset); err != nil && len(lines) > 0 {
		return nil
	}
	flags, err := backup.ReadFlags(bytes.NewReader(bytes.TrimRight(lines, "\n")))
	if err != nil {
		return nil
	}
	return flags
}
