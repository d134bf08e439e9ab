package record

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
)

// A record has a list of the inode flags (chattr(1)) that files and directories had, which most backends do not store:
// a backup.FlagLine for each that has some. It lies where the entries of a directory of this name would, ended by empty
// lines; there is no such directory, for others have absolute paths. A record of an earlier version has no such list.
const flagsName = "flags"

// longest is how long a list may be that is kept, in bytes. Of a longer one nothing is known.
const longest = 64 << 20

// flagList is such a list while it is made.
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
	if len(l.lines) > longest {
		l.lines, l.tooLong = nil, true
	}
}

// padded is the list, as long as some entries are.
func (l *flagList) padded() []byte {
	for len(l.lines)%entrySize != 0 {
		l.lines = append(l.lines, '\n')
	}
	return l.lines
}

// Flags are the inode flags that files and directories had when the backup was made, by path. What has none is not in
// it. nil: they are not known.
func (r *Record) Flags() map[string]tree.Flags {
	if r == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(r.dirs, keyOf(flagsName), dir.compare)
	if !found || r.dirs[i].count > 2*longest/entrySize {
		return nil
	}
	lines := make([]byte, int64(r.dirs[i].count)*entrySize)
	if _, err := r.file.ReadAt(lines, r.begin+r.dirs[i].at); err != nil && len(lines) > 0 {
		return nil
	}
	flags, err := backup.ReadFlags(bytes.NewReader(bytes.TrimRight(lines, "\n")))
	if err != nil {
		return nil
	}
	return flags
}
