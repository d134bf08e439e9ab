package record

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// Settled is how long before a record is begun a file must have been changed last to be known as unchanged later.
const Settled = 3 * time.Second

// Doubt is told the path of each regular file that may have the size and the time of modification of the one in the
// backup before and another content, and how many names the file has. It may be nil.
type Doubt func(path string, names uint32) error

// Make walks the roots of a tree that is to be stored, before it is read, and records them in the file t.Record. last
// is the record of the backup before, or nil. It asks for each name once and opens directories only. What is gone or
// must not be looked at is left out. After an error there is no file.
//
// What is read live is written out first: as long as a page of a file that is mapped into memory is dirty, another
// store into it does not set the file's times.
func Make(ctx context.Context, t backup.Tree, last *Record, doubt Doubt, report backup.Report) (err error) {
	began := time.Now()
	if t.Time.Before(began) {
		began = t.Time
	}
	file, err := os.OpenFile(t.Record, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return unrecorded(err)
	}
	defer func() {
		if err = cmp.Or(err, unrecorded(file.Close())); err != nil {
			_ = os.Remove(t.Record) // it would be damaged
		}
	}()
	before := began.Add(-Settled)
	w := walk{
		ctx: ctx, out: bufio.NewWriterSize(file, 64<<10), last: last, doubt: doubt, report: report,
		before: unix.StatxTimestamp{Sec: before.Unix(), Nsec: uint32(before.Nanosecond())},
	}
	for _, root := range t.Roots {
		if err := w.writtenOut(root); err != nil {
			return err
		}
	}
	for _, root := range t.Roots {
		w.live = !readOnly(root)
		if err := w.root(root); err != nil {
			return err
		}
	}
	return unrecorded(w.finish())
}

// Unrecorded is the warning of a backup without a record.
func Unrecorded(err error) string {
	return fmt.Sprintf("what the files were like is not recorded, and the next backup or restore reads them all: %v", err)
}

func unrecorded(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.CommandFailed, "record what the files are like: %w", err)
}

// walk is a record that is being made.
type walk struct {
	ctx    context.Context
	out    *bufio.Writer
	at     int64
	dirs   []dir
	last   *Record
	doubt  Doubt
	live   bool                // the root that is walked can change meanwhile
	before unix.StatxTimestamp // what was changed at this time or later may change without a trace
	report backup.Report
	files  int64
	flags  flagList

	entries []entry // of one directory
	buf     [32 << 10]byte
}

// label is what the report is about.
const label = "looking at the files"

// writtenOut has the file system of a root write out what is dirty, if it is not read-only: a snapshot's has none.
func (w *walk) writtenOut(root string) error {
	if readOnly(root) {
		return nil
	}
	dir, err := os.Open(root)
	if err != nil {
		return passable(err)
	}
	defer dir.Close()
	err = backup.Flush(w.ctx, dir, func() { w.report(backup.Progress{Label: "writing out " + root}) })
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	if err != nil {
		return passable(err)
	}
	return nil
}

// readOnly tells whether the file system of a root is mounted read-only.
func readOnly(root string) bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// passable is nil for an error after which the rest can be recorded: what is gone or must not be looked at will not be
// stored either. Of anything else nobody knows whether whoever stores the tree meets it too.
func passable(err error) error {
	for _, number := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE, unix.EACCES, unix.EPERM} {
		if errors.Is(err, number) {
			return nil
		}
	}
	return unrecorded(err)
}

func (w *walk) root(path string) error {
	fd, err := openDir(unix.AT_FDCWD, path, 0)
	if err != nil {
		return passable(err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return passable(err)
	}
	return w.directory(fd, path, &st)
}

func openDir(in int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Openat(in, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // not ours, and we are not root
		fd, err = unix.Openat(in, name, flags, 0)
	}
	return fd, err
}

// directory records what is in a directory, and then what is in those below.
func (w *walk) directory(fd int, path string, own *unix.Statx_t) error {
	w.entries = w.entries[:0]
	w.add(self, own)
	w.flags.add(path, own)
	below, err := w.names(fd, path)
	if err != nil {
		return err
	}
	if err := w.block(path); err != nil {
		return err
	}
	for _, name := range below {
		if err := w.subdirectory(fd, name, path, own); err != nil {
			return err
		}
	}
	return nil
}

// names records what is in a directory, and returns the names of its directories.
func (w *walk) names(fd int, path string) (below []string, err error) {
	var names []string
	for {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.ReadDirent(fd, w.buf[:])
		if n <= 0 || err != nil {
			return below, passable(err)
		}
		_, _, names = unix.ParseDirent(w.buf[:n], -1, names[:0])
		for _, name := range names {
			var st unix.Statx_t
			if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
				if err := passable(err); err != nil {
					return nil, err
				}
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				below = append(below, strings.Clone(name))
				continue
			}
			if err := w.file(path, name, &st); err != nil {
				return nil, err
			}
		}
	}
}

func (w *walk) file(in, name string, st *unix.Statx_t) error {
	w.add(name, st)
	if tree.FlagsOf(st) != 0 {
		w.flags.add(join(in, name), st)
	}
	if w.files++; w.files%1000 == 0 {
		w.report(backup.Progress{Label: label, Files: w.files})
	}
	if w.doubt == nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	// What was read live may have been stored in a state that came after the one that was recorded.
	if v := w.last.find(in, name, st); v == same || v == unknown && !w.live {
		return nil
	}
	return w.doubt(join(in, name), st.Nlink)
}

// add records a name. Of what may change once more without a trace it records only what it looks like.
func (w *walk) add(name string, st *unix.Statx_t) {
	e := describe(name, st)
	if c := st.Ctime; c.Sec > w.before.Sec || c.Sec == w.before.Sec && c.Nsec >= w.before.Nsec {
		e.is = 0
	}
	w.entries = append(w.entries, e)
}

// subdirectory goes into a directory, but not into what is mounted there.
func (w *walk) subdirectory(in int, name, above string, aboveStat *unix.Statx_t) error {
	fd, err := openDir(in, name, unix.O_NOFOLLOW)
	if err != nil {
		return passable(err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return passable(err)
	}
	if st.Dev_major != aboveStat.Dev_major || st.Dev_minor != aboveStat.Dev_minor ||
		st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil
	}
	return w.directory(fd, join(above, name), &st)
}

func join(in, name string) string {
	if in == "/" {
		return in + name
	}
	return in + "/" + name
}

// block writes the entries of a directory.
func (w *walk) block(path string) error {
	if len(w.entries) == 0 {
		return nil
	}
	slices.SortFunc(w.entries, entry.compare)
	w.dirs = append(w.dirs, dir{keyOf(path), w.at, uint32(len(w.entries))})
	var data [entrySize]byte
	for _, e := range w.entries {
		binary.LittleEndian.PutUint64(data[:], e.looks)
		binary.LittleEndian.PutUint64(data[8:], e.is)
		if err := w.write(data[:]); err != nil {
			return unrecorded(err)
		}
	}
	return nil
}

func (w *walk) write(data []byte) error {
	n, err := w.out.Write(data)
	w.at += int64(n)
	return err
}

// finish writes the list of inode flags, and where the entries of each directory lie.
func (w *walk) finish() error {
	if !w.flags.tooLong {
		lines := w.flags.padded()
		w.dirs = append(w.dirs, dir{keyOf(flagsName), w.at, uint32(len(lines) / entrySize)})
		if err := w.write(lines); err != nil {
			return err
		}
	}
	slices.SortFunc(w.dirs, func(a, b dir) int { return a.compare(b.key) })
	at := w.at
	var data [dirSize]byte
	for _, d := range w.dirs {
		copy(data[:], d.key[:])
		binary.LittleEndian.PutUint64(data[keySize:], uint64(d.at))
		binary.LittleEndian.PutUint32(data[keySize+8:], d.count)
		if err := w.write(data[:]); err != nil {
			return err
		}
	}
	var trailer [trailerSize]byte
	binary.LittleEndian.PutUint64(trailer[:], uint64(at))
	binary.LittleEndian.PutUint64(trailer[8:], uint64(len(w.dirs)))
	if err := w.write(trailer[:]); err != nil {
		return err
	}
	return w.out.Flush()
}
