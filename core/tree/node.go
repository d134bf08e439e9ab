package tree

import (
	"errors"
	"io"
	"iter"
	"math"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// node is one entry of a tree, held by a descriptor that neither reads nor opens it (O_PATH): a device is not started
// and a FIFO not waited for, and what is done by it is done to what was looked at, whatever has its name by then.
type node struct {
	fd int
	st unix.Statx_t
}

// id is what all hard links of one file share.
type id struct {
	dev, ino uint64
}

// openRoot opens a tree's top. The path is the caller's and may hold symbolic links.
func openRoot(path string) (*node, error) {
	return open(unix.AT_FDCWD, path, unix.O_DIRECTORY)
}

// child opens the entry of that name; a symbolic link is opened itself.
func (n *node) child(name string) (*node, error) {
	return open(n.fd, name, unix.O_NOFOLLOW)
}

// childIfAny is child, and nil where there is none.
func (n *node) childIfAny(name string) (*node, error) {
	c, err := n.child(name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return c, err
}

func open(dir int, name string, flags int) (*node, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) { // FUSE
		fd, err = unix.Openat(dir, name, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	n := &node{fd: fd}
	if err := n.stat(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// stat looks at it again.
func (n *node) stat() error {
	return unix.Statx(n.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &n.st)
}

// close is also fit for what is missing.
func (n *node) close() {
	if n != nil {
		_ = unix.Close(n.fd)
	}
}

func (n *node) kind() uint16 { return n.st.Mode & unix.S_IFMT }

func (n *node) isDir() bool { return n.kind() == unix.S_IFDIR }

func (n *node) isDevice() bool { return n.kind() == unix.S_IFCHR || n.kind() == unix.S_IFBLK }

func (n *node) isFile() bool { return n.kind() == unix.S_IFREG }

func (n *node) size() int64 { return int64(min(n.st.Size, math.MaxInt64)) }

func (n *node) id() id { return id{unix.Mkdev(n.st.Dev_major, n.st.Dev_minor), n.st.Ino} }

// mounted reports whether another file system begins here, or a bind mount. above is the directory it is in. Only of
// directories the device tells something: overlayfs shows files with that of the layer they lie in.
func (n *node) mounted(above *node) bool {
	if n.st.Attributes_mask&n.st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return true
	}
	return n.isDir() && n.id().dev != above.id().dev
}

// path names the node for calls that take no descriptor of its kind; proc(5), /proc/pid/fd. Here the kernel goes to what
// is open, and does not follow it if that is a symbolic link.
func (n *node) path() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// open opens the content. Reading must not be seen in the times of access: that would be a write.
func (n *node) open(flags int) (*os.File, error) {
	f, err := os.OpenFile(n.path(), flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // not ours, and we are not root
		f, err = os.OpenFile(n.path(), flags, 0)
	}
	return f, errno(err)
}

// openDirect opens the content to be read past the page cache, or through it where the file system cannot do otherwise.
func (n *node) openDirect() (*os.File, error) {
	f, err := n.open(unix.O_RDONLY | unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return n.open(unix.O_RDONLY)
	}
	return f, err
}

// list returns the sorted names in a directory.
func (n *node) list() (*names, error) {
	all := &names{}
	for name, err := range n.each() {
		if err != nil {
			return nil, err
		}
		all.add(name)
	}
	all.sort()
	return all, nil
}

// each yields every name in a directory; an error is the last. Entries may be removed meanwhile; some file systems then
// leave out others.
func (n *node) each() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f, err := n.open(unix.O_RDONLY | unix.O_DIRECTORY)
		if err != nil {
			yield("", err)
			return
		}
		defer f.Close()
		for {
			some, err := f.Readdirnames(256)
			for _, name := range some {
				if !yield(name, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield("", errno(err))
				return
			}
		}
	}
}

// target returns where a symbolic link leads.
func (n *node) target() (string, error) {
	buf := make([]byte, unix.PathMax+1)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// errno takes the path out of an error of package os: it is a descriptor's, which tells nobody anything.
func errno(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}
