package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// readSize is the number of bytes of one read, a multiple of Block.
	readSize = 512 << 10
	// readsAhead is how many reads of one file of `from` are under way at the same time. A FUSE program may serve
	// them, which can work on several processors while this program compares.
	readsAhead = 4
)

// buffers are reused for one file after the other. Each is allocated when a file needs it for the first time.
type buffers struct {
	source [readsAhead][]byte // for reads of `from`, used in turn
	target []byte
	attr   [2][]byte
}

// lazyBuffer returns a buffer, and allocates it at the first call.
func lazyBuffer(buffer *[]byte, size int) []byte {
	if *buffer == nil {
		*buffer = make([]byte, size)
	}
	return *buffer
}

// zeros is what a hole holds.
var zeros [readSize]byte

// contentSync makes the content of one file equal to that of a file of `from`, or only compares them.
type contentSync struct {
	*job
	e        *entry
	src      *os.File
	to       *node    // the file to be made equal
	old      *os.File // the content of `to` before; nil: the file is new
	dst      *os.File // `to`, opened for writing once there is something to write
	older    bool     // `to` is a file of the older tree
	readOnly bool     // nothing may be written: a difference is errDiffers
	size     int64    // of src
	length   int64    // the present size of `to`
	wrote    bool

	pendingReads []*chunkRead // reads of src that are under way, in the order of their offsets
	readsBegun   int          // the number of reads since the file's beginning
	nextRead     int64        // the offset of the next read to begin
}

// chunkRead is one read of src, which runs in a goroutine of its own.
type chunkRead struct {
	into []byte
	n    int
	err  error
	done chan struct{}
}

// syncContent makes the content of a file equal that exists in both trees, and reports whether it was changed.
func (j *job) syncContent(e *entry) (changed bool, err error) {
	changed = j.truncatedEarly[e.to.id()]
	if !changed && j.contentUnchanged(e) {
		return false, nil
	}
	c := contentSync{job: j, e: e, to: e.to, readOnly: !j.mayWriteInPlace(e)}
	defer c.close()
	err = c.openAndRun()
	return changed || c.wrote, err
}

// compareContent returns errDiffers if the entry's file of `from` has not the content of a file of the older tree.
func (j *job) compareContent(e *entry, other *node) error {
	c := contentSync{job: j, e: e, to: other, older: true, readOnly: true}
	defer c.close()
	return c.openAndRun()
}

// openAndRun opens both files and compares or syncs them.
func (c *contentSync) openAndRun() (err error) {
	if c.src, err = c.openSource(c.e.from); err != nil {
		return c.noteUnreadableFile(c.e, err)
	}
	if c.old, err = openTarget(c.to); err != nil {
		return c.oldUnreadable(err)
	}
	c.size, c.length = c.e.from.size(), c.to.size()
	return c.run()
}

// openSource opens the content of a file of `from`.
func (j *job) openSource(n *node) (*os.File, error) {
	if j.opts.Direct {
		return n.openDirect()
	}
	return n.openContent(unix.O_RDONLY)
}

// openTarget opens the content of a file of `to` for reading past the page cache, for two reasons. The server's
// services need the cache. And what is read into the cache comes in large folios; XFS before Linux 6.6 writes a whole
// folio back when one block of it was written. In a snapshot each of those blocks takes COW space: on Linux 6.1, 109 MB
// were measured for 21 MB of changes. A file system that must use the cache is told not to read ahead, which keeps
// folios small.
func openTarget(n *node) (*os.File, error) {
	f, err := n.openDirect()
	if err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // only advice: without it everything still works
	}
	return f, err
}

func (c *contentSync) close() {
	for _, f := range c.pendingReads { // they write into buffers that are reused for the next file
		<-f.done
	}
	for _, f := range []*os.File{c.src, c.old, c.dst} {
		if f != nil {
			_ = f.Close() // nothing was written to dst, or something else has failed before
		}
	}
}

// run makes the content equal, and closes the file that was written. NFS and file systems of FUSE say only when a file
// is closed that the server could not take what was written.
func (c *contentSync) run() error {
	if err := c.syncAll(); err != nil || c.dst == nil {
		return err
	}
	dst := c.dst
	c.dst = nil
	return c.targetError("write", c.e.rel, errno(dst.Close()))
}

// syncAll goes through src from start to end, through holes and data in turn.
func (c *contentSync) syncAll() error {
	if c.length > c.size {
		if err := c.truncate(); err != nil {
			return err
		}
	}
	for at := int64(0); at < c.size; {
		start, end := nextExtent(c.src, at, c.size)
		if err := c.syncHole(at, start); err != nil {
			return err
		}
		if err := c.syncData(start, end); err != nil {
			return err
		}
		at = end
	}
	if c.length == c.size {
		return nil
	}
	return c.truncate()
}

// syncData makes `to` equal in [at, end), where `from` has data. at is a multiple of Block.
func (c *contentSync) syncData(at, end int64) error {
	base := c.progress.Done - at
	for ; at < end && at < c.size; at += readSize {
		if err := c.checkContext(c.e.rel); err != nil {
			return err
		}
		wanted, err := c.nextChunk(at, end)
		if err != nil {
			return err
		}
		old, err := c.oldData(at, len(wanted))
		if err != nil {
			return err
		}
		err = forEachDifference(wanted, old, func(lo, hi int) error { return c.write(wanted[lo:hi], at+int64(lo)) })
		if err != nil {
			return err
		}
		c.progress.Done = base + at + int64(len(wanted))
		c.report(c.e.rel)
	}
	return nil
}

// nextChunk returns the next bytes of `from`, readSize at most, and begins to read the following ones up to end. The
// result is valid until the next call. If a file of a live tree ends before its size, c.size becomes where it ends.
func (c *contentSync) nextChunk(at, end int64) ([]byte, error) {
	if len(c.pendingReads) == 0 {
		c.nextRead = at
	}
	for ; c.nextRead < end && len(c.pendingReads) < readsAhead; c.nextRead += readSize {
		c.beginRead(min(readSize, end-c.nextRead))
	}
	got := c.pendingReads[0]
	c.pendingReads = c.pendingReads[1:]
	<-got.done
	data, n, err := got.into, got.n, got.err
	c.done.Compared += int64(n)
	switch {
	case n == len(data):
		return data, nil
	case !errors.Is(err, io.EOF):
		return nil, c.noteUnreadableFile(c.e, errno(err))
	case !c.opts.Live:
		return nil, c.noteUnreadableFile(c.e, fmt.Errorf("it ends at %d of %d bytes", at+int64(n), c.size))
	}
	c.size = at + int64(n)
	return data[:n], nil
}

// beginRead begins to read the next size bytes into the buffer whose turn it is.
func (c *contentSync) beginRead(size int64) {
	buffer := lazyBuffer(&c.buffers.source[c.readsBegun%readsAhead], readSize)
	f, at := &chunkRead{into: buffer[:size], done: make(chan struct{})}, c.nextRead
	c.readsBegun++
	c.pendingReads = append(c.pendingReads, f)
	go func() {
		f.n, f.err = c.src.ReadAt(f.into, at)
		close(f.done)
	}()
}

// oldData returns what `to` holds at an offset, with zeros beyond its end, as if it were longer by a hole.
func (c *contentSync) oldData(at int64, size int) ([]byte, error) {
	if c.old == nil || at >= c.length {
		return zeros[:size], nil
	}
	// O_DIRECT needs whole blocks and an aligned buffer. The buffer has room, and Go aligns large ones to pages.
	whole := lazyBuffer(&c.buffers.target, readSize)[:roundUp(int64(size))]
	n, err := readOld(c.old, whole, at)
	if err != nil {
		return nil, c.oldUnreadable(err)
	}
	old := whole[:size]
	clear(old[min(n, size):])
	return old, nil
}

// oldUnreadable returns the error for a file of `to` that cannot be read. In a comparison with the older tree that is a
// difference: the file is stored anew, so that one lost block of an earlier backup does not keep every later one from
// being made.
func (c *contentSync) oldUnreadable(err error) error {
	if !c.older || c.ctx.Err() != nil {
		return c.targetError("read", c.e.rel, err)
	}
	c.warn(c.e.rel, "its copy in the earlier backup cannot be read ("+err.Error()+"), so it is stored anew")
	return errDiffers
}

// readOld is readBlocks. Tests replace it.
var readOld = readBlocks

// readBlocks reads whole blocks up to the end of the file. os.File.ReadAt would read again after a short read at the
// end of the file, from an offset within a block, and with O_DIRECT that is an error.
func readBlocks(f *os.File, into []byte, at int64) (n int, err error) {
	for n < len(into) && n%Block == 0 {
		m, err := unix.Pread(int(f.Fd()), into[n:], at+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// syncHole makes sure that `to` reads as zeros in [at, end), where `from` has a hole.
func (c *contentSync) syncHole(at, end int64) error {
	c.progress.Done += end - at
	if c.old == nil {
		return nil
	}
	for end = min(end, c.length); at < end; {
		start, stop := nextExtent(c.old, at, end)
		for ; start < stop; start += readSize {
			if err := c.checkContext(c.e.rel); err != nil {
				return err
			}
			size := int(min(readSize, stop-start))
			old, err := c.oldData(start, size)
			if err != nil {
				return err
			}
			err = forEachDifference(zeros[:size], old, func(lo, hi int) error {
				return c.punchHole(start+int64(lo), int64(hi-lo))
			})
			if err != nil {
				return err
			}
			c.report(c.e.rel)
		}
		at = stop
	}
	return nil
}

// openForWriting returns `to` opened for writing, or errDiffers if it must not be written.
func (c *contentSync) openForWriting() (*os.File, error) {
	if c.readOnly || c.to.isSealed() {
		return nil, errDiffers
	}
	c.wrote = true
	if c.dst != nil {
		return c.dst, nil
	}
	if err := c.unlock(c.to, c.e.rel); err != nil {
		return nil, err
	}
	var err error
	c.dst, err = c.to.openContent(unix.O_WRONLY)
	return c.dst, c.targetError("open", c.e.rel, err)
}

func (c *contentSync) write(data []byte, at int64) error {
	dst, err := c.openForWriting()
	if err != nil {
		return err
	}
	if err := c.gate(c.e.rel, int64(len(data))); err != nil {
		return err
	}
	n, err := dst.WriteAt(data, at)
	c.done.Written += int64(n)
	c.length = max(c.length, at+int64(n))
	return c.targetError("write", c.e.rel, errno(err))
}

// punchHole makes a hole. On a file system without holes it writes zeros.
func (c *contentSync) punchHole(at, size int64) error {
	dst, err := c.openForWriting()
	if err != nil {
		return err
	}
	if err := c.gateMetadata(c.e); err != nil {
		return err
	}
	err = unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return c.write(zeros[:size], at)
	}
	return c.targetError("make a hole in", c.e.rel, err)
}

// truncate gives `to` the size of src.
func (c *contentSync) truncate() error {
	dst, err := c.openForWriting()
	if err != nil {
		return err
	}
	if err := c.gateMetadata(c.e); err != nil {
		return err
	}
	c.length = c.size
	return c.targetError("set the size of", c.e.rel, errno(dst.Truncate(c.size)))
}

// forEachDifference calls fn for each run of consecutive blocks in which a and b differ. a and b have the same length.
func forEachDifference(a, b []byte, fn func(lo, hi int) error) error {
	if bytes.Equal(a, b) {
		return nil
	}
	for lo := 0; lo < len(a); {
		hi := lo
		for hi < len(a) && !sameBlock(a, b, hi) {
			hi = min(hi+Block, len(a))
		}
		if hi == lo {
			lo += Block
			continue
		}
		if err := fn(lo, hi); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

func sameBlock(a, b []byte, at int) bool {
	end := min(at+Block, len(a))
	return bytes.Equal(a[at:end], b[at:end])
}

// nextExtent returns the next data of a file at or after an offset, in whole blocks: [start, end), up to size. Between
// the offset and start there is a hole. On a file system without holes everything is data.
func nextExtent(f *os.File, at, size int64) (start, end int64) {
	fd := int(f.Fd())
	start, err := unix.Seek(fd, at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return at, size
	}
	start = max(at, start/Block*Block)
	if start >= size {
		return size, size
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	if err != nil {
		return start, size
	}
	return start, min(roundUp(end), size)
}
