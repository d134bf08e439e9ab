// Package tree makes one directory tree, called `to`, equal to another one, called `from`, and writes only what
// differs: of a file whose content differs, only the 4 KiB blocks that differ. It knows nothing of volumes or backups.
//
// Nothing outside `to` is ever changed, whatever `from` holds and whatever another process does meanwhile: every entry
// is opened by one name relative to the descriptor of its directory, beginning at the root, and no symbolic link is
// followed. A file that has further hard links outside `to` is never written in place.
package tree

import (
	"context"

	"golang.org/x/sys/unix"
)

// Block is the unit in which contents are compared and written, in bytes. It is the chunk size of a snapshot's COW
// space, and the block size of most file systems.
const Block = 4096

// Options say how Sync and Estimate compare the trees and what they leave alone.
type Options struct {
	// Unchanged avoids reading what has not changed. It is given the path, relative to the root, and the statx(2)
	// result of a file or directory of `to`, and reports whether the caller knows that its content and metadata are
	// still those from which the entry of the same path in `from` was made. With Link, it is given the statx(2) result
	// of the entry of `from` instead, and reports whether that is still what the entry in the older tree was made from.
	// It is called only if size and mtime are the same in both trees. Nil: nothing is known, and all contents are
	// compared.
	Unchanged func(rel string, st *unix.Statx_t) bool

	// Gate is called before anything is written to `to`. n is the number of bytes of data, or Block for a change of
	// metadata. It may block. Its error ends the work and is returned, wrapped. May be nil.
	Gate func(n int64) error

	// Report is called with the progress a few times a second. May be nil.
	Report func(Progress)

	// Skip lists paths that are neither read in `from` nor changed in `to`. They are relative to the roots, clean, and
	// have no leading slash.
	Skip []string

	// Link is the path of an older tree on the file system of `to`, for a store of dated trees. A file that is missing
	// in `to`, and that has the same content and metadata in `from` and in the older tree, becomes a hard link to the
	// file of the older tree instead of a copy. Empty: there is no older tree.
	Link string

	// OneFileSystem leaves the content of other mounts alone: where another file system is mounted in `from`, only the
	// directory itself is made; where one is mounted in `to`, nothing is changed.
	OneFileSystem bool

	// NoDevices says that `from` does not show the device numbers of its device nodes. Nodes that are in `to` keep
	// their numbers; those that are missing in `to` are left out with a warning.
	NoDevices bool

	// Direct reads the contents of `from` past the page cache (O_DIRECT), which is faster for a FUSE mount. The file
	// system of `from` must accept any offset and length, as FUSE does.
	Direct bool

	// Unlock allows to change and remove files and directories of `to` that are immutable or append-only: the flags are
	// cleared, and set again when everything is written. Without Unlock such an entry is a failure, because somebody may
	// have set the flag on purpose.
	Unlock bool

	// Flags returns the inode flags that an entry of `to` is to have in the end. rel is its path relative to the root.
	// Nil: that is not known, and each entry keeps the flags that it has.
	Flags func(rel string) Flags

	// Flagged is called for each entry of `from` that has inode flags. May be nil.
	Flagged func(rel string, f Flags)

	// Live says that `from` may be changed by others meanwhile: an entry that vanishes before it is read is listed in
	// Done.Vanished and is not an error.
	Live bool
}

// Progress says how far a Sync or an Estimate is.
type Progress struct {
	Done, Total int64  // bytes of `from`: those that are dealt with, and all; Total is 0 until all are counted
	Files       int64  // entries that are no directories: those counted, while Total is 0, then those dealt with
	Path        string // of the entry at work, relative to the root
}

// Done is what a Sync found and did.
type Done struct {
	Files, Bytes int64 // of `from`: entries that are no directories, and the sizes of all files; each hard link counts
	Compared     int64 // bytes that were read from `from`
	Written      int64 // bytes of data that were written to `to`

	// Numbers of entries of `to`. An entry that was replaced counts as deleted and as created.
	Created  int64
	Changed  int64 // the content was changed
	Deleted  int64
	Metadata int64 // only owner, mode, time, extended attributes or inode flags were changed
	Linked   int64 // made as a hard link to an existing file

	// Each list has at most 100 entries, and then one more that says how many were left out.

	Flagged    []string // paths of `to`, relative to the root, that had inode flags
	Warnings   []string // what was left out on purpose: sockets, device nodes, mount points in the way
	Unreadable []string // paths of `from` that could not be read: in `to` they are missing or not equal
	Vanished   []string // paths of `from` that were gone when they were to be read
}

// Same reports whether nothing was written.
func (d Done) Same() bool {
	return d.Written == 0 && d.Created+d.Changed+d.Deleted+d.Metadata+d.Linked == 0
}

// Sync makes the tree at the directory `to` equal to that at the directory `from`: contents, holes, owners, modes,
// mtimes to the nanosecond, extended attributes with POSIX ACLs and capabilities, hard links, symbolic links, devices
// and FIFOs, and the root's own metadata. Sockets are left out. What `from` lacks is deleted first. If Sync returns no
// error and nothing is unreadable, a second Sync writes nothing.
//
// Files are written in place, so nobody else may use `to`. An interrupted Sync leaves a mixture of old and new, which
// the next Sync completes. Sync flushes nothing: the caller must sync the file system. Extended attributes of a kind
// that the file system of `from` cannot hold are left as they are in `to`.
//
// Errors are faults: fault.NotFound if a root cannot be opened, fault.NoSpace if `to` is full, fault.Busy,
// fault.Unsupported, fault.CommandFailed for anything else that the file system of `to` refuses, fault.SourceVanished
// unless Live, and fault.Interrupted or fault.Timeout if ctx ends. Sync looks at ctx before every entry and every 512
// KiB. Also with an error, Done says what was done until then.
//
// Memory does not depend on the size of the trees, except for the names in one directory (about 4 bytes each beside the
// letters) and for files that have several hard links or inode flags. Sync holds two descriptors for each level of
// depth, three with Link.
func Sync(ctx context.Context, from, to string, opts Options) (Done, error) {
	j, err := newJob(ctx, from, to, opts)
	if err != nil {
		return Done{}, err
	}
	defer j.close()
	s := newSurvey(j, false)
	if err := s.scanDir(&j.root); err != nil {
		return j.result(), err
	}
	j.done.Files, j.done.Bytes = s.need.Files, s.need.Bytes
	j.progress = Progress{Total: s.need.Bytes}
	if err = j.writePass(); err == nil {
		err = j.setPendingFlags()
	}
	if err == nil {
		err = j.checkSameEntries(s.entries)
	}
	if err == nil {
		j.flushReport()
	}
	return j.result(), err
}

// Need is how much a Sync would write, in bytes, rounded up to whole blocks.
type Need struct {
	// Least is a lower bound: the data of files that are missing in `to`, and what files of `from` have beyond the end of
	// their pairs in `to`. Blocks of zeros that `from` holds as data are counted, although Sync makes holes of them.
	Least int64

	// Most is an upper bound. It takes every file whose size or mtime differs, or which is not known to be unchanged
	// (see Options.Unchanged), as different from start to end, and each change of metadata as one Block. Extended
	// attributes are not looked at.
	Most int64

	Files, Bytes int64 // as in Done
}

// Estimate returns how much a Sync with the same arguments would write. It reads metadata only and writes nothing. What
// cannot be read is not counted. Its faults are fault.NotFound if a root cannot be opened, fault.Interrupted or
// fault.Timeout if ctx ends, and those of entries of `to` that cannot be opened or listed, as for Sync.
func Estimate(ctx context.Context, from, to string, opts Options) (Need, error) {
	j, err := newJob(ctx, from, to, opts)
	if err != nil {
		return Need{}, err
	}
	defer j.close()
	s := newSurvey(j, true)
	err = s.scanDir(&j.root)
	return s.need, err
}
