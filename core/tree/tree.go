// Package tree makes one directory tree equal to another and writes only what differs: of a large file the 4 KiB
// blocks that are not the same, nothing at all of a file that is. It knows nothing of volumes or backups.
//
// Whatever the tree that is read holds and whatever another process does meanwhile, nothing outside the tree that is
// written is ever changed: every entry is reached from the top by descriptor, one name at a time, and no symbolic link
// is followed. A file that has further hard links outside is never written in place.
package tree

import (
	"context"

	"golang.org/x/sys/unix"
)

// Block is the unit in which contents are compared and written, in bytes: the chunk size of a snapshot's COW space,
// and the block size of most file systems.
const Block = 4096

// Options say how to compare and what to leave alone.
type Options struct {
	// Unchanged spares the reading of what has not changed: it reports whether a file or directory of `to`, by its path
	// relative to the root and as statx shows it, is known to be what its pair in `from` was made of, content and
	// metadata. With Link it is asked of `from`, and for the pair in that older tree. It is asked only where size and
	// time of modification are the same. Nil: nothing is known, and every content is compared.
	Unchanged func(rel string, st *unix.Statx_t) bool

	// Gate is asked before anything is written to `to`: n bytes of data, or Block for a change of metadata. It may
	// block; its error ends the work and is returned wrapped. May be nil.
	Gate func(n int64) error

	// Report is told how far the work is, a few times a second. May be nil.
	Report func(Progress)

	// Skip names paths relative to the roots, clean and without a leading slash, that are left alone on both sides.
	Skip []string

	// Link is an older tree on the file system of `to`, for a store of dated trees: a file that is missing in `to` and
	// has there the same content and metadata is hard-linked instead of copied. Empty: none.
	Link string

	// OneFileSystem leaves the content of other mounts alone: a directory of `from` that is one is made, and no more;
	// one of `to` is not touched.
	OneFileSystem bool

	// NoDevices says that `from` does not show the numbers of its device nodes: those of `to` are kept, and nodes that
	// are missing there are left out with a warning.
	NoDevices bool

	// Direct reads the contents of `from` past the page cache (O_DIRECT), which is faster for a FUSE mount. Its file system
	// must take any offset and length, as FUSE does.
	Direct bool

	// Unlock has files and directories of `to` changed and removed that are immutable or append-only. Such flags are set
	// again when all is written. Without it they are failures: whoever has set them may mean it.
	Unlock bool

	// Flags says which inode flags an entry of `to` is to have in the end, by its path relative to the root. nil: nobody
	// knows, and each keeps those it has.
	Flags func(rel string) Flags

	// Flagged is told of each entry of `from` that has inode flags. May be nil.
	Flagged func(rel string, f Flags)

	// Live says that `from` is being changed meanwhile: what vanishes before it is read is noted, not an error.
	Live bool
}

// Progress is how far the work is.
type Progress struct {
	Done, Total int64 // bytes of `from` that are dealt with, and all; Total is 0 until they have been counted
	Files       int64 // entries that are no directories: counted, while Total is 0, then dealt with
	Path        string
}

// Done is what was found and done.
type Done struct {
	Files, Bytes int64 // of `from`: entries that are no directories, and the sizes of its files, each name counted
	Compared     int64 // bytes that were read of `from`
	Written      int64 // bytes of data that were written to `to`

	// Entries of `to`. One that is replaced counts as deleted and created.
	Created  int64
	Changed  int64 // in content
	Deleted  int64
	Metadata int64 // whose owner, mode, time or extended attributes only were set
	Linked   int64 // made as another name of a file that is there

	Flagged    []string // paths of `to`, relative to the root, that had inode flags
	Warnings   []string // what was left out on purpose: sockets, mount points in the way
	Unreadable []string // paths of `from` whose pair is not equal, or is missing, since they could not be read
	Vanished   []string // paths of `from` that were gone when they were to be read
}

// Each list is bounded; its last entry then says how many more there are.

// Same reports whether nothing was written.
func (d Done) Same() bool {
	return d.Written == 0 && d.Created+d.Changed+d.Deleted+d.Metadata+d.Linked == 0
}

// Sync makes the tree at the directory `to` equal to that at the directory `from`: contents, holes, owners, modes, times
// of modification to the nanosecond, extended attributes with POSIX ACLs and capabilities, hard links, symbolic links,
// devices and FIFOs, and the root's own metadata. Sockets are left out. What `from` lacks is deleted first. When it has
// returned without an error and nothing is unreadable, another Sync writes nothing.
//
// Files are written in place, so nobody else may use `to`. An interrupted Sync leaves a mixture, which the next one
// completes. Nothing is flushed: the caller syncs the file system. Attributes that the file system of `from` cannot
// hold are left as they are in `to`.
//
// Failures are faults: not_found for a root, no_space where `to` is full, busy, unsupported, command_failed for what else
// the file system of `to` says no to, source_vanished unless Live, interrupted and timeout by ctx, which is looked at before every entry and every 512 KiB. Done says what was done until then. Memory
// does not depend on the size of the trees, but for the names in one directory (some 4 bytes each beside its letters)
// and files with several hard links or inode flags. It takes two descriptors for each level of depth, three with Link.
func Sync(ctx context.Context, from, to string, o Options) (Done, error) {
	j, err := newJob(ctx, from, to, o)
	if err != nil {
		return Done{}, err
	}
	defer j.close()
	s := newSurvey(j, false)
	if err := s.directory(&j.root); err != nil {
		return j.result(), err
	}
	j.done.Files, j.done.Bytes = s.need.Files, s.need.Bytes
	j.progress = Progress{Total: s.need.Bytes}
	if err = j.top(); err == nil {
		err = j.lock()
	}
	if err == nil {
		j.flushReport()
	}
	return j.result(), err
}

// Need is what a Sync would write, in whole blocks.
type Need struct {
	// Least is what is missing in `to` or longer in `from`. Blocks of zeros become holes, and are counted all the same
	// where `from` holds them as data.
	Least int64

	// Most takes every file whose size or time differs, or which is not known to be unchanged (see Options.Unchanged), as
	// different from start to end, and each change of metadata as one Block. Extended attributes are not looked at.
	Most int64

	Files, Bytes int64 // as in Done
}

// Estimate says what Sync would need. It reads metadata only and writes nothing. What cannot be read counts nothing.
func Estimate(ctx context.Context, from, to string, o Options) (Need, error) {
	j, err := newJob(ctx, from, to, o)
	if err != nil {
		return Need{}, err
	}
	defer j.close()
	s := newSurvey(j, true)
	err = s.directory(&j.root)
	return s.need, err
}
