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

// node is one entry of a tree, held by an O_PATH descriptor. Such a descriptor does not open the content: no device is
// started, and nobody waits at a FIFO. What is done through the descriptor is done to the entry that was looked at,
// even if something else has its name by then. st is what statx(2) said at the last look.
type node struct {
	fd int
	st unix.Statx_t
}

// id identifies an inode: all hard links of one file have the same.
type id struct {
	dev, ino uint64
}

// openRoot opens the root of a tree. The path comes from the caller and may contain symbolic links.
func openRoot(path string) (*node, error) {
	return open(unix.AT_FDCWD, path, unix.O_DIRECTORY)
}

// child opens an entry of a directory by its name. A symbolic link is opened itself, not followed.
func (n *node) child(name string) (*node, error) {
	return open(n.fd, name, unix.O_NOFOLLOW)
}

// childIfAny is child, but returns nil and no error if there is no such entry.
func (n *node) childIfAny(name string) (*node, error) {
	c, err := n.child(name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return c, err
}

func open(dir int, name string, flags int) (*node, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) { // a FUSE file system may return it
		fd, err = unix.Openat(dir, name, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	n := &node{fd: fd}
	if err := n.restat(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// restat reads the node's metadata again.
func (n *node) restat() error {
	return unix.Statx(n.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &n.st)
}

// close may be called on nil.
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

// isSealed reports whether fs-verity protects the file: nobody can write it, but it can be replaced.
func (n *node) isSealed() bool {
	return n.st.Attributes_mask&n.st.Attributes&unix.STATX_ATTR_VERITY != 0
}

// isMountPoint reports whether another file system, or a bind mount, is mounted here. parent is the directory that
// holds the node. A different device number means a mount only for directories: overlayfs shows files with the device
// number of the layer that holds them.
func (n *node) isMountPoint(parent *node) bool {
	if n.st.Attributes_mask&n.st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return true
	}
	return n.isDir() && n.id().dev != parent.id().dev
}

// path returns a path of the node for system calls that accept no O_PATH descriptor; see proc(5), /proc/pid/fd. The
// kernel resolves it to the open entry itself, and if that is a symbolic link, does not follow it.
func (n *node) path() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// openContent opens the content of the node. Reading must not change the atime, because that would be a write.
func (n *node) openContent(flags int) (*os.File, error) {
	f, err := os.OpenFile(n.path(), flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // O_NOATIME is only for the file's owner and root
		f, err = os.OpenFile(n.path(), flags, 0)
	}
	return f, errno(err)
}

// openDirect opens the content for reading past the page cache, or through it if the file system has no O_DIRECT.
func (n *node) openDirect() (*os.File, error) {
	f, err := n.openContent(unix.O_RDONLY | unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return n.openContent(unix.O_RDONLY)
	}
	return f, err
}

// sortedNames returns the sorted names in a directory.
func (n *node) sortedNames() (*names, error) {
	all := &names{}
	for name, err := range n.eachName() {
		if err != nil {
			return nil, err
		}
		all.add(name)
	}
	all.sort()
	return all, nil
}

// eachName yields every name in a directory, and stops after an error. Entries may be removed while it runs; some file
// systems then leave out other names.
func (n *node) eachName() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f, err := n.openContent(unix.O_RDONLY | unix.O_DIRECTORY)
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

// linkTarget returns the target of a symbolic link.
func (n *node) linkTarget() (string, error) {
	buf := make([]byte, unix.PathMax+1)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// errno returns the bare error number of an error of package os. The path in that error is one of /proc/self/fd, which
// would tell the user nothing.
func errno(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}
