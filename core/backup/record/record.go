// Package record keeps what the files of a backup were like when it was made, so that a later run knows without reading
// them which files still hold what that backup holds.
//
// A file is taken as unchanged only if its inode, its size and its times of modification and of change (ctime) are, to
// the nanosecond, those that were recorded under its name. No program can set a ctime, and none is compared with a time
// of day: a rollback, a reverted virtual machine and a clock that is set back all leave ctimes that are older than the
// last backup on files that it never held. Either such a ctime differs from the recorded one, or the file is the very
// one that was recorded.
//
// What was changed within the last seconds before a record was begun matches nothing: file systems take their times
// from a clock that ticks every few milliseconds, some every two seconds, and a second change within one tick leaves no
// trace.
//
// Records lie on the host whose files they tell of, and are true for good: a rollback of the volume they lie on takes
// away the newer ones, and those that it brings back still tell of backups that have not changed. Without a record a
// backup is compared by content.
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

// A record holds, behind a line that says of which backup it is, 16 bytes for each file and directory, in a block for
// each directory; then 28 bytes for each directory, sorted by key; then where those begin and how many they are. What a
// damaged disk makes of it matches no file, except once in 2^64 times. Between the two is the list of inode flags.
const (
	magic       = "rewind record 1 "
	entrySize   = 16
	dirSize     = keySize + 8 + 4
	trailerSize = 8 + 8
	keySize     = 16
)

// entry is what is recorded of one name in a directory: what it looks like, by its size and time of modification, and
// what it is.
type entry struct{ looks, is uint64 }

func (e entry) compare(f entry) int {
	return cmp.Or(cmp.Compare(e.looks, f.looks), cmp.Compare(e.is, f.is))
}

// dir is where the entries of a directory lie.
type dir struct {
	key   key
	at    int64
	count uint32
}

// key stands for the path of a directory.
type key [keySize]byte

func keyOf(path string) key {
	sum := sha256.Sum256([]byte(path))
	return key(sum[:keySize])
}

func (d dir) compare(k key) int { return bytes.Compare(d.key[:], k[:]) }

// self is the name under which a directory's own entry lies among those of what is in it.
const self = "."

// describe makes the entry of a name.
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

// fnv is FNV-1a: two names for which it is the same by chance are only looked at more closely.
func fnv(data []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// Record is that of one backup. A nil one knows nothing. It is for one goroutine at a time.
type Record struct {
	file  *os.File
	begin int64 // of the blocks
	dirs  []dir // by key

	loaded  bool   // a directory is in memory
	path    string // of that directory
	entries []entry
}

// Close closes it.
func (r *Record) Close() {
	if r != nil {
		_ = r.file.Close()
	}
}

// Same reports whether a file or directory, which statx shows so, is what it was when the backup was made: it has the
// content and the metadata that were stored then. path is absolute and clean, as it was then.
func (r *Record) Same(name string, st *unix.Statx_t) bool {
	if r == nil {
		return false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return r.find(name, self, st) == same
	}
	return r.find(path.Dir(name), path.Base(name), st) == same
}

// verdict is what a record says of a name.
type verdict int

const (
	unknown verdict = iota
	alike           // it has the size and the time of modification of what was recorded, and may not be the same
	same
)

// find looks for a name in a directory.
func (r *Record) find(in, name string, st *unix.Statx_t) verdict {
	if r == nil || !r.load(in) {
		return unknown
	}
	e := describe(name, st)
	i, found := slices.BinarySearchFunc(r.entries, e, entry.compare)
	switch {
	case found && e.is != 0:
		return same
	case found:
		return alike
	case i < len(r.entries) && r.entries[i].looks == e.looks, i > 0 && r.entries[i-1].looks == e.looks:
		return alike
	}
	return unknown
}

// load brings the entries of a directory into memory, and reports whether there are any.
func (r *Record) load(in string) bool {
	if r.loaded && r.path == in {
		return len(r.entries) > 0
	}
	r.loaded, r.path, r.entries = true, in, r.entries[:0]
	k := keyOf(in)
	i, found := slices.BinarySearchFunc(r.dirs, k, dir.compare)
	if !found {
		return false
	}
	data := make([]byte, int64(r.dirs[i].count)*entrySize)
	if _, err := r.file.ReadAt(data, r.begin+r.dirs[i].at); err != nil {
		return false // nothing is known of them then
	}
	for ; len(data) > 0; data = data[entrySize:] {
		r.entries = append(r.entries, entry{binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])})
	}
	return true
}

// errDamaged says that a file is no record.
var errDamaged = errors.New("it is damaged, or of another version")

// read reads where the directories' entries lie. What is about the backup ends at begin.
func read(file *os.File, begin int64) (*Record, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - begin
	var trailer [trailerSize]byte
	if size < trailerSize {
		return nil, errDamaged
	}
	if _, err := file.ReadAt(trailer[:], begin+size-trailerSize); err != nil {
		return nil, err
	}
	at, count := binary.LittleEndian.Uint64(trailer[:]), binary.LittleEndian.Uint64(trailer[8:])
	if at > uint64(size) || count > math.MaxUint32 || at+count*dirSize != uint64(size-trailerSize) {
		return nil, errDamaged
	}
	data := io.NewSectionReader(file, begin+int64(at), int64(count*dirSize))
	r := &Record{file: file, begin: begin, dirs: make([]dir, 0, count)}
	return r, r.readDirs(data, int64(at))
}

// readDirs reads the list of directories, whose entries end at end.
func (r *Record) readDirs(from io.Reader, end int64) error {
	buf := make([]byte, 1024*dirSize)
	for {
		n, err := io.ReadFull(from, buf)
		for data := buf[:n/dirSize*dirSize]; len(data) > 0; data = data[dirSize:] {
			d := dir{
				key: key(data[:keySize]), at: int64(binary.LittleEndian.Uint64(data[keySize:])),
				count: binary.LittleEndian.Uint32(data[keySize+8:]),
			}
			if d.at < 0 || d.at > end || int64(d.count)*entrySize > end-d.at {
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
