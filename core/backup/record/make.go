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

// Settled is the minimum time between the last change of a file and the start of its record. A file that was changed
// later than that never counts as unchanged.
const Settled = 3 * time.Second

// Doubt is called with the path of each regular file that may have the size and the time of modification that the
// previous backup has of it and yet another content. names is the number of the file's hard links. A Doubt may be nil.
// An error of Doubt ends Make.
type Doubt func(path string, names uint32) error

// Make records the roots of the tree t in the file t.Record. It is called before the tree is stored. previous is the
// record of the previous backup, or nil. Make calls statx once for each name and opens only directories. It leaves out
// files that have gone or that it may not look at. After an error it removes the file.
//
// Make first writes out the dirty pages of the roots that are read live: as long as a page of a memory-mapped file is
// dirty, another store into that page does not change the file's times.
//
// report gets the number of files recorded so far. warnings has what no backend stores and no mount table shows. Fault:
// command_failed where the record cannot be made. The error of a context that has ended and that of doubt are returned
// as they are.
func Make(
	ctx context.Context, t backup.Tree, previous *Record, doubt Doubt, report backup.Report,
) (warnings []string, err error) {
	begun := time.Now()
	if t.Time.Before(begun) {
		begun = t.Time
	}
	file, err := os.OpenFile(t.Record, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, makeFault(err)
	}
	defer func() {
		if err = cmp.Or(err, makeFault(file.Close())); err != nil {
			_ = os.Remove(t.Record) // it is not complete
		}
	}()
	settledBefore := begun.Add(-Settled)
	s := scan{
		ctx: ctx, out: bufio.NewWriterSize(file, 64<<10), previous: previous, doubt: doubt, report: report,
		roots:         t.Roots,
		settledBefore: unix.StatxTimestamp{Sec: settledBefore.Unix(), Nsec: uint32(settledBefore.Nanosecond())},
	}
	for _, root := range t.Roots {
		if err := s.flushRoot(root); err != nil {
			return nil, err
		}
	}
	for _, root := range t.Roots {
		s.live = !readOnly(root)
		if err := s.scanRoot(root); err != nil {
			return s.warnings(), err
		}
	}
	return s.warnings(), makeFault(s.finish())
}

// Unrecorded returns the warning that a backup has no record because of err.
func Unrecorded(err error) string {
	return fmt.Sprintf("what the files were like is not recorded, and the next backup or restore reads them all: %v", err)
}

// makeFault returns err as command_failed, and nil for nil.
func makeFault(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.CommandFailed, "record what the files are like: %w", err)
}

// scan is the making of one record.
type scan struct {
	ctx    context.Context
	out    *bufio.Writer
	offset int64 // bytes written so far
	dirs   []dir

	previous      *Record
	doubt         Doubt
	live          bool                // the current root can change while it is recorded
	settledBefore unix.StatxTimestamp // a file changed at this time or later may change again without a trace
	report        backup.Report
	files         int64
	flags         flagList
	roots         []string
	subvolumes    []string // of btrfs, below the roots: no mount table shows them, and no backend stores them

	entries []entry        // of the current directory
	buf     [32 << 10]byte // for getdents64(2)
}

func (s *scan) warnings() []string {
	return backup.NotStoredWarning("subvolumes of btrfs", s.subvolumes)
}

// progressLabel says in reports what is going on.
const progressLabel = "looking at the files"

// flushRoot has the file system of a root write out its dirty pages. A read-only file system, such as that of a
// snapshot, has none.
func (s *scan) flushRoot(root string) error {
	if readOnly(root) {
		return nil
	}
	dir, err := os.Open(root)
	if err != nil {
		return ignoreSkippable(err)
	}
	defer dir.Close()
	err = backup.Flush(s.ctx, dir, func() { s.report(backup.Progress{Label: "writing out " + root}) })
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if err != nil {
		return ignoreSkippable(err)
	}
	return nil
}

// readOnly reports whether the file system of a root is mounted read-only.
func readOnly(root string) bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// ignoreSkippable returns nil if err says that a file has gone or may not be looked at: the backend cannot store such a
// file either, so the record may leave it out. Any other error is returned, because the backend may be able to store a
// file that failed here.
func ignoreSkippable(err error) error {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE, unix.EACCES, unix.EPERM} {
		if errors.Is(err, errno) {
			return nil
		}
	}
	return makeFault(err)
}

func (s *scan) scanRoot(path string) error {
	fd, err := openDir(unix.AT_FDCWD, path, 0)
	if err != nil {
		return ignoreSkippable(err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return ignoreSkippable(err)
	}
	return s.scanDirectory(fd, path, &st)
}

func openDir(parentFD int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Openat(parentFD, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // O_NOATIME is only for root and the owner
		fd, err = unix.Openat(parentFD, name, flags, 0)
	}
	return fd, err
}

// scanDirectory records a directory and what is in it, and then its subdirectories.
func (s *scan) scanDirectory(fd int, path string, st *unix.Statx_t) error {
	s.entries = s.entries[:0]
	s.add(selfName, st)
	s.flags.add(path, st)
	subdirs, err := s.scanEntries(fd, path)
	if err != nil {
		return err
	}
	if err := s.writeEntries(path); err != nil {
		return err
	}
	for _, name := range subdirs {
		if err := s.subdirectory(fd, name, path, st); err != nil {
			return err
		}
	}
	return nil
}

// scanEntries records everything in a directory but its subdirectories, and returns their names.
func (s *scan) scanEntries(fd int, path string) (subdirs []string, err error) {
	var batch []string
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.ReadDirent(fd, s.buf[:])
		if n <= 0 || err != nil {
			return subdirs, ignoreSkippable(err)
		}
		_, _, batch = unix.ParseDirent(s.buf[:n], -1, batch[:0])
		for _, name := range batch {
			var st unix.Statx_t
			if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
				if err := ignoreSkippable(err); err != nil {
					return nil, err
				}
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				subdirs = append(subdirs, strings.Clone(name))
				continue
			}
			if err := s.addFile(path, name, &st); err != nil {
				return nil, err
			}
		}
	}
}

// addFile records a file that is no directory, and calls doubt if that is due.
func (s *scan) addFile(dirPath, name string, st *unix.Statx_t) error {
	s.add(name, st)
	if tree.FlagsOf(st) != 0 {
		s.flags.add(join(dirPath, name), st)
	}
	if s.files++; s.files%1000 == 0 {
		s.report(backup.Progress{Label: progressLabel, Files: s.files})
	}
	if s.doubt == nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	// A file that is read live may change between the record and the reading: the previous backup may hold a later state
	// of it than the previous record. So a live file is in doubt even if the record does not know it.
	if v := s.previous.lookUp(dirPath, name, st); v == same || v == unknown && !s.live {
		return nil
	}
	return s.doubt(join(dirPath, name), st.Nlink)
}

// add records a name in the current directory. It leaves out the identity of a file that may change again without a
// trace.
func (s *scan) add(name string, st *unix.Statx_t) {
	e := describe(name, st)
	if c := st.Ctime; c.Sec > s.settledBefore.Sec || c.Sec == s.settledBefore.Sec && c.Nsec >= s.settledBefore.Nsec {
		e.identity = 0
	}
	s.entries = append(s.entries, e)
}

// subdirectory records a subdirectory, unless something is mounted there.
func (s *scan) subdirectory(parentFD int, name, parentPath string, parentStat *unix.Statx_t) error {
	fd, err := openDir(parentFD, name, unix.O_NOFOLLOW)
	if err != nil {
		return ignoreSkippable(err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return ignoreSkippable(err)
	}
	path := join(parentPath, name)
	if isSubvolume(parentStat, &st) && !slices.Contains(s.roots, path) {
		s.subvolumes = append(s.subvolumes, path)
	}
	if isOtherDevice(parentStat, &st) || st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil
	}
	return s.scanDirectory(fd, path, &st)
}

func join(dirPath, name string) string {
	if dirPath == "/" {
		return dirPath + name
	}
	return dirPath + "/" + name
}

// writeEntries writes the block of the current directory.
func (s *scan) writeEntries(path string) error {
	if len(s.entries) == 0 {
		return nil
	}
	slices.SortFunc(s.entries, entry.compare)
	s.dirs = append(s.dirs, dir{keyOf(path), s.offset, uint32(len(s.entries))})
	var data [entrySize]byte
	for _, e := range s.entries {
		binary.LittleEndian.PutUint64(data[:], e.appearance)
		binary.LittleEndian.PutUint64(data[8:], e.identity)
		if err := s.write(data[:]); err != nil {
			return makeFault(err)
		}
	}
	return nil
}

func (s *scan) write(data []byte) error {
	n, err := s.out.Write(data)
	s.offset += int64(n)
	return err
}

// finish writes the list of inode flags, the list of directories and the trailer.
func (s *scan) finish() error {
	if !s.flags.tooLong {
		lines := s.flags.padded()
		s.dirs = append(s.dirs, dir{keyOf(flagsName), s.offset, uint32(len(lines) / entrySize)})
		if err := s.write(lines); err != nil {
			return err
		}
	}
	slices.SortFunc(s.dirs, func(a, b dir) int { return a.compare(b.key) })
	dirsOffset := s.offset
	var data [dirSize]byte
	for _, d := range s.dirs {
		copy(data[:], d.key[:])
		binary.LittleEndian.PutUint64(data[keySize:], uint64(d.offset))
		binary.LittleEndian.PutUint32(data[keySize+8:], d.count)
		if err := s.write(data[:]); err != nil {
			return err
		}
	}
	var trailer [trailerSize]byte
	binary.LittleEndian.PutUint64(trailer[:], uint64(dirsOffset))
	binary.LittleEndian.PutUint64(trailer[8:], uint64(len(s.dirs)))
	if err := s.write(trailer[:]); err != nil {
		return err
	}
	return s.out.Flush()
}
