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
	// chunk is how many bytes are read at once, a multiple of Block.
	chunk = 512 << 10
	// abreast is how many chunks of one file of `from` are read at once. What serves them may be a program that works as
	// long as this one does, and on several processors.
	abreast = 4
)

// buffers are used for one file after the other, each from the first file on that needs it.
type buffers struct {
	new  [abreast][]byte // in turn
	old  []byte
	attr [2][]byte
}

// made returns a buffer, which it makes if it is not there yet.
func made(buffer *[]byte, size int) []byte {
	if *buffer == nil {
		*buffer = make([]byte, size)
	}
	return *buffer
}

// zeros is what a hole holds.
var zeros [chunk]byte

// pour makes the content of one file equal to another's.
type pour struct {
	*job
	e      *entry
	src    *os.File
	to     *node    // the file to be made equal
	old    *os.File // its content as it is; nil: there is none yet
	dst    *os.File // opened for writing when there is something to write
	frozen bool     // nothing may be written: a difference is errDiffers
	size   int64    // of src
	length int64    // of to, as it is by now
	wrote  bool

	fetches []*fetch // of src, under way, in the order in which they are wanted
	begun   int      // how many ever were
	upTo    int64    // the offset of the next
}

// fetch is a reading of one chunk that goes on beside the rest.
type fetch struct {
	into []byte
	n    int
	err  error
	done chan struct{}
}

// content makes the content of a file that is there equal, and reports whether it was changed.
func (j *job) content(e *entry) (changed bool, err error) {
	changed = j.shortened[e.to.id()]
	if !changed && j.sameContent(e) {
		return false, nil
	}
	p := pour{job: j, e: e, to: e.to, frozen: !j.ours(e)}
	defer p.close()
	err = p.both()
	return changed || p.wrote, err
}

// compare returns errDiffers where the content of the entry is not that of the other file.
func (j *job) compare(e *entry, other *node) error {
	p := pour{job: j, e: e, to: other, frozen: true}
	defer p.close()
	return p.both()
}

// both opens both files and goes through them.
func (p *pour) both() (err error) {
	if p.src, err = p.openSource(p.e.from); err != nil {
		return p.unreadableFile(p.e, err)
	}
	if p.old, err = openTarget(p.to); err != nil {
		return p.failed("read", p.e.rel, err)
	}
	p.size, p.length = p.e.from.size(), p.to.size()
	return p.run()
}

// openSource opens the content of a file of `from`.
func (j *job) openSource(n *node) (*os.File, error) {
	if j.o.Direct {
		return n.openDirect()
	}
	return n.open(unix.O_RDONLY)
}

// openTarget opens the content of a file of `to` past the page cache: the cache is the server's, which works meanwhile,
// and what is read into it comes in large folios, of which XFS before Linux 6.6 writes the whole back when one block of
// it was written. In a snapshot each of those blocks takes COW space: measured on 6.1, 109 MB for 21 MB. Where a file
// system must cache, it is told not to read ahead, which keeps folios small.
func openTarget(n *node) (*os.File, error) {
	f, err := n.openDirect()
	if err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // advice: nothing else goes wrong without it
	}
	return f, err
}

func (p *pour) close() {
	for _, f := range p.fetches { // they write into buffers that the next file gets
		<-f.done
	}
	for _, f := range []*os.File{p.src, p.old, p.dst} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// run goes through the file, holes and data in turn.
func (p *pour) run() error {
	if p.length > p.size {
		if err := p.truncate(); err != nil {
			return err
		}
	}
	for at := int64(0); at < p.size; {
		start, end := extent(p.src, at, p.size)
		if err := p.hole(at, start); err != nil {
			return err
		}
		if err := p.data(start, end); err != nil {
			return err
		}
		at = end
	}
	if p.length == p.size {
		return nil
	}
	return p.truncate()
}

// data makes equal what `from` holds in [at, end), at being a multiple of Block.
func (p *pour) data(at, end int64) error {
	base := p.progress.Done - at
	for ; at < end && at < p.size; at += chunk {
		if err := p.alive(p.e.rel); err != nil {
			return err
		}
		new, err := p.read(at, end)
		if err != nil {
			return err
		}
		old, err := p.existing(at, len(new))
		if err != nil {
			return err
		}
		err = differing(new, old, func(lo, hi int) error { return p.write(new[lo:hi], at+int64(lo)) })
		if err != nil {
			return err
		}
		p.progress.Done = base + at + int64(len(new))
		p.report(p.e.rel)
	}
	return nil
}

// read returns up to a chunk of `from`, and has the next ones up to end read meanwhile. It is valid until the next call.
// A live file may end before its size; then it has a new size.
func (p *pour) read(at, end int64) ([]byte, error) {
	if len(p.fetches) == 0 {
		p.upTo = at
	}
	for ; p.upTo < end && len(p.fetches) < abreast; p.upTo += chunk {
		p.begin(min(chunk, end-p.upTo))
	}
	got := p.fetches[0]
	p.fetches = p.fetches[1:]
	<-got.done
	new, n, err := got.into, got.n, got.err
	p.done.Compared += int64(n)
	switch {
	case n == len(new):
		return new, nil
	case !errors.Is(err, io.EOF):
		return nil, p.unreadableFile(p.e, errno(err))
	case !p.o.Live:
		return nil, p.unreadableFile(p.e, fmt.Errorf("it ends at %d of %d bytes", at+int64(n), p.size))
	}
	p.size = at + int64(n)
	return new[:n], nil
}

// begin begins to read the next bytes, into the buffer whose turn it is.
func (p *pour) begin(size int64) {
	f, at := &fetch{into: made(&p.buffers.new[p.begun%abreast], chunk)[:size], done: make(chan struct{})}, p.upTo
	p.begun++
	p.fetches = append(p.fetches, f)
	go func() {
		f.n, f.err = p.src.ReadAt(f.into, at)
		close(f.done)
	}()
}

// existing returns what `to` holds at an offset, with zeros beyond its end: as it would read if it were that long.
func (p *pour) existing(at int64, size int) ([]byte, error) {
	if p.old == nil || at >= p.length {
		return zeros[:size], nil
	}
	// Whole blocks, as O_DIRECT wants them; the buffer has room, and is aligned as large ones are.
	whole := made(&p.buffers.old, chunk)[:roundUp(int64(size))]
	n, err := readBlocks(p.old, whole, at)
	if err != nil {
		return nil, p.failed("read", p.e.rel, err)
	}
	old := whole[:size]
	clear(old[min(n, size):])
	return old, nil
}

// readBlocks reads whole blocks, as far as the file goes. io.ReaderAt would ask again for what follows its end, and to
// ask for a part of a block is an error with O_DIRECT.
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

// hole makes sure that `to` reads as zeros in [at, end), where `from` has a hole.
func (p *pour) hole(at, end int64) error {
	p.progress.Done += end - at
	if p.old == nil {
		return nil
	}
	for end = min(end, p.length); at < end; {
		start, stop := extent(p.old, at, end)
		for ; start < stop; start += chunk {
			if err := p.alive(p.e.rel); err != nil {
				return err
			}
			size := int(min(chunk, stop-start))
			old, err := p.existing(start, size)
			if err != nil {
				return err
			}
			err = differing(zeros[:size], old, func(lo, hi int) error { return p.punch(start+int64(lo), int64(hi-lo)) })
			if err != nil {
				return err
			}
		}
		at = stop
	}
	return nil
}

// writer opens `to` for writing, or says that it must not be written.
func (p *pour) writer() (*os.File, error) {
	if p.frozen {
		return nil, errDiffers
	}
	p.wrote = true
	if p.dst != nil {
		return p.dst, nil
	}
	if err := p.unlock(p.to, p.e.rel); err != nil {
		return nil, err
	}
	var err error
	p.dst, err = p.to.open(unix.O_WRONLY)
	return p.dst, p.failed("open", p.e.rel, err)
}

func (p *pour) write(data []byte, at int64) error {
	dst, err := p.writer()
	if err != nil {
		return err
	}
	if err := p.gate(p.e.rel, int64(len(data))); err != nil {
		return err
	}
	n, err := dst.WriteAt(data, at)
	p.done.Written += int64(n)
	p.length = max(p.length, at+int64(n))
	return p.failed("write", p.e.rel, errno(err))
}

// punch makes a hole; where the file system knows none, it writes zeros.
func (p *pour) punch(at, size int64) error {
	dst, err := p.writer()
	if err != nil {
		return err
	}
	if err := p.pay(p.e); err != nil {
		return err
	}
	err = unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return p.write(zeros[:size], at)
	}
	return p.failed("make a hole in", p.e.rel, err)
}

// truncate gives `to` its size.
func (p *pour) truncate() error {
	dst, err := p.writer()
	if err != nil {
		return err
	}
	if err := p.pay(p.e); err != nil {
		return err
	}
	p.length = p.size
	return p.failed("set the size of", p.e.rel, errno(dst.Truncate(p.size)))
}

// differing calls fn with each run of blocks in which a and b, of the same length, differ.
func differing(a, b []byte, fn func(lo, hi int) error) error {
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

// extent returns the next data of a file at or after an offset, in whole blocks: [start, end), up to size. What lies
// before it is a hole. A file system that knows no holes has data only.
func extent(f *os.File, at, size int64) (start, end int64) {
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
