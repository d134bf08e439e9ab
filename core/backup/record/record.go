// Package record stores the attributes that the files of a backup had when the backup was made. A later run compares
// them with the files as they are, and so knows which files still have the stored content, without reading them.
//
// A file counts as unchanged only if its inode, its size, its time of modification and its time of change (ctime) equal
// the recorded ones, to the nanosecond, under the same path. No program can set a ctime. A ctime is only compared with
// the recorded ctime, never with the time of the backup: after a rollback, a reverted virtual machine or a clock that
// was set back, a file that the last backup never held may have a ctime older than that backup. Such a ctime either
// differs from the recorded one, or the file is the very one that was recorded.
//
// A file that was changed within the last seconds before its record was begun never counts as unchanged. File systems
// take their times from a clock that ticks every few milliseconds, on some every two seconds, and a second change
// within one tick leaves no trace.
//
// Records are kept on the host whose files they describe, and a record never becomes wrong. A rollback of the volume
// that holds them removes the newer ones; the older ones that it brings back still describe backups that have not
// changed. Without a record, files are compared with the backup by content.
package record

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// The format of a record:
//
//   - one line that describes the backup (it ends at Record.base, from which all offsets count);
//   - for each directory, one block with 16 bytes for each name in it (entry);
//   - the list of inode flags (flagsName);
//   - 28 bytes for each directory, sorted by key (dir);
//   - the trailer: the offset and the number of the directories' 28 bytes, 8 bytes each.
//
// An entry that a disk has damaged matches a file by chance once in 2^64 times.
const (
	magic       = "rewind record 1 "
	entrySize   = 16
	dirSize     = keySize + 8 + 4
	trailerSize = 8 + 8
	keySize     = 16
)

// entry is what is recorded of one name in a directory. appearance is a hash of the name, the size and the time of
// modification. identity is a hash of these and of the inode, the ctime and the mode; it is 0 if the file may have been
// changed again without a trace.
type entry struct{ appearance, identity uint64 }

func (e entry) compare(f entry) int {
	return cmp.Or(cmp.Compare(e.appearance, f.appearance), cmp.Compare(e.identity, f.identity))
}

// dir says where the entries of a directory are in the record.
type dir struct {
	key    key
	offset int64  // bytes from Record.base
	count  uint32 // of entries
}

// key is a hash of the path of a directory.
type key [keySize]byte

func keyOf(path string) key {
	sum := sha256.Sum256([]byte(path))
	return key(sum[:keySize])
}

func (d dir) compare(k key) int { return bytes.Compare(d.key[:], k[:]) }

// selfName is the name of a directory's entry for itself. It is in the same block as the entries of the files in that
// directory.
const selfName = "."

// describe makes the entry of a file from its name and attributes.
func describe(name string, st *unix.Statx_t) entry {
	data := make([]byte, 0, 512)
	data = append(append(data, name...), 0)
	data = binary.LittleEndian.AppendUint64(data, st.Size)
	data = appendTime(data, st.Mtime)
	looks := fnv(data)
	data = binary.LittleEndian.AppendUint64(data, st.Ino)
	data = appendTime(data, st.Ctime)
	data = binary.LittleEndian.AppendUint16(data, st.Mode)
	sum := sha256.Sum256(data)
	return entry{looks, binary.LittleEndian.Uint64(sum[:])}
}

func appendTime(data []byte, t unix.StatxTimestamp) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(data, uint64(t.Sec)), t.Nsec)
}

// fnv is the hash FNV-1a. Where two files have the same hash by chance, their contents are compared, which does no
// harm.
func fnv(data []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// Record is the record of one backup. A nil Record has no entries. Only one goroutine at a time may use a Record.
type Record struct {
	file *os.File
	base int64 // the offset in the file of the first block
	dirs []dir // sorted by key

	cached        bool // the entries of one directory are in memory
	cachedPath    string
	cachedEntries []entry
}

// Close closes the file of the record.
func (r *Record) Close() {
	if r != nil {
		_ = r.file.Close()
	}
}

// Same reports whether a file or directory, whose attributes are st, has been unchanged since the backup was made: it
// has the content and the metadata that were stored. name is its absolute, clean path at the time of the backup.
func (r *Record) Same(name string, st *unix.Statx_t) bool {
	if r == nil {
		return false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return r.lookUp(name, selfName, st) == same
	}
	return r.lookUp(path.Dir(name), path.Base(name), st) == same
}

// verdict is what a record says about a file.
type verdict int

const (
	unknown verdict = iota // the recorded size or time of modification differs, or there is no entry
	similar                // the size and the time of modification are the recorded ones, the content may not be
	same                   // the file is unchanged
)

// lookUp compares the file called name in a directory with its entry.
func (r *Record) lookUp(dirPath, name string, st *unix.Statx_t) verdict {
	if r == nil || !r.loadEntries(dirPath) {
		return unknown
	}
	e := describe(name, st)
	i, found := slices.BinarySearchFunc(r.cachedEntries, e, entry.compare)
	switch {
	case found && e.identity != 0:
		return same
	case found:
		return similar
	case i < len(r.cachedEntries) && r.cachedEntries[i].appearance == e.appearance,
		i > 0 && r.cachedEntries[i-1].appearance == e.appearance:
		return similar
	}
	return unknown
}

// loadEntries reads the entries of a directory into memory, and reports whether there are any.
func (r *Record) loadEntries(dirPath string) bool {
	if r.cached && r.cachedPath == dirPath {
		return len(r.cachedEntries) > 0
	}
	r.cached, r.cachedPath, r.cachedEntries = true, dirPath, r.cachedEntries[:0]
	key := keyOf(dirPath)
	i, found := slices.BinarySearchFunc(r.dirs, key, dir.compare)
	if !found {
		return false
	}
	data := make([]byte, int64(r.dirs[i].count)*entrySize)
	if _, err := r.file.ReadAt(data, r.base+r.dirs[i].offset); err != nil {
		return false // the entries stay empty, so the files of this directory are unknown
	}
	for ; len(data) > 0; data = data[entrySize:] {
		e := entry{binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])}
		r.cachedEntries = append(r.cachedEntries, e)
	}
	return true
}

// errDamaged means that a file is not a record that can be read.
var errDamaged = errors.New("it is damaged, or of another version")

// readIndex reads the list of directories. The line that describes the backup ends at the offset base.
func readIndex(file *os.File, base int64) (*Record, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - base
	var trailer [trailerSize]byte
	if size < trailerSize {
		return nil, errDamaged
	}
	if _, err := file.ReadAt(trailer[:], base+size-trailerSize); err != nil {
		return nil, err
	}
	dirsOffset, count := binary.LittleEndian.Uint64(trailer[:]), binary.LittleEndian.Uint64(trailer[8:])
	if dirsOffset > uint64(size) || count > math.MaxUint32 || dirsOffset+count*dirSize != uint64(size-trailerSize) {
		return nil, errDamaged
	}
	data := io.NewSectionReader(file, base+int64(dirsOffset), int64(count*dirSize))
	r := &Record{file: file, base: base, dirs: make([]dir, 0, count)}
	return r, r.readDirs(data, int64(dirsOffset))
}

// readDirs reads the list of directories. It fails if the entries of one lie beyond the offset end.
func (r *Record) readDirs(src io.Reader, end int64) error {
	buf := make([]byte, 1024*dirSize)
	for {
		n, err := io.ReadFull(src, buf)
		for data := buf[:n/dirSize*dirSize]; len(data) > 0; data = data[dirSize:] {
			d := dir{
				key: key(data[:keySize]), offset: int64(binary.LittleEndian.Uint64(data[keySize:])),
				count: binary.LittleEndian.Uint32(data[keySize+8:]),
			}
			if d.offset < 0 || d.offset > end || int64(d.count)*entrySize > end-d.offset {
				return fmt.Errorf("directory %d: %w", len(r.dirs), errDamaged)
			}
			r.dirs = append(r.dirs, d)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
