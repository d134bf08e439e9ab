package filesystem

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// Change is a file or directory that differs between a file system and its snapshot.
type Change struct {
	Path string `json:"path"` // relative to the top directory of both trees
	What string `json:"what"` // "changed", "new" or "deleted"
}

// Changes counts how a file system differs from its snapshot, and names the first differing files.
type Changes struct {
	Changed int      `json:"changed"`
	New     int      `json:"new"`     // files and directories only in the current tree
	Deleted int      `json:"deleted"` // files and directories only in the snapshot
	Bytes   int64    `json:"bytes"`   // total current size of the changed and new regular files
	Paths   []Change `json:"paths"`   // the first differing files, in the order in which the trees are walked
}

// Compare compares a file system, mounted at current, with its snapshot, mounted at snapshot. It does not read file
// contents: it compares type, mode, owner, inode, size, mtime, ctime, device number and link target. No program can set
// a ctime, so a file that was written and then given its old mtime is found as well. Whatever is mounted below either
// tree is left out. At most limit paths are named; the counts include everything, directories too.
//
// The current tree may be in use: a file that vanishes during the comparison counts as deleted. Memory is needed only
// for the names in one directory and in the directories above it.
//
// Faults: not_found if one of the trees does not exist, interrupted or timeout if ctx ends, internal.
func Compare(ctx context.Context, current, snapshot string, limit int) (Changes, error) {
	c := comparison{ctx: ctx, currentTop: current, snapshotTop: snapshot, limit: limit, result: Changes{Paths: []Change{}}}
	var err error
	if c.currentDev, err = deviceOfDir(current); err != nil {
		return c.result, err
	}
	if c.snapshotDev, err = deviceOfDir(snapshot); err != nil {
		return c.result, err
	}
	err = c.compareDir(".", true, true)
	return c.result, err
}

// deviceOfDir returns the st_dev of a directory.
func deviceOfDir(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fault.New(fault.NotFound, "compare %s: %w", dir, err)
	}
	return st.Dev, nil
}

// comparison is one comparison of a file system with its snapshot.
type comparison struct {
	ctx                     context.Context
	currentTop, snapshotTop string
	currentDev, snapshotDev uint64
	limit                   int
	result                  Changes
}

// compareDir compares the entries of one directory, which exists in one of the trees or in both.
func (c *comparison) compareDir(rel string, inCurrent, inSnapshot bool) error {
	if c.ctx.Err() != nil {
		return fault.Of(c.ctx.Err())
	}
	var names []string
	for _, tree := range []struct {
		top    string
		exists bool
	}{{c.currentTop, inCurrent}, {c.snapshotTop, inSnapshot}} {
		if !tree.exists {
			continue
		}
		entries, err := listKeepingAtime(filepath.Join(tree.top, rel))
		if err != nil {
			return fault.New(fault.Internal, "compare: %w", err)
		}
		names = append(names, entries...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := c.compareEntry(path.Join(rel, name), inCurrent, inSnapshot); err != nil {
			return err
		}
	}
	return nil
}

// compareEntry compares the entries of one path in the two trees.
func (c *comparison) compareEntry(rel string, inCurrent, inSnapshot bool) error {
	current, err := lstatIf(inCurrent, c.currentTop, rel)
	if err != nil {
		return err
	}
	snapshot, err := lstatIf(inSnapshot, c.snapshotTop, rel)
	if err != nil {
		return err
	}
	if current != nil && current.Dev != c.currentDev || snapshot != nil && snapshot.Dev != c.snapshotDev {
		return nil // something else is mounted there
	}
	switch {
	case current == nil && snapshot == nil: // it vanished during the comparison
		return nil
	case snapshot == nil:
		c.record(rel, "new", &c.result.New, current)
	case current == nil:
		c.record(rel, "deleted", &c.result.Deleted, nil)
	case c.differs(rel, current, snapshot):
		c.record(rel, "changed", &c.result.Changed, current)
	}
	if isDir(current) || isDir(snapshot) {
		return c.compareDir(rel, isDir(current), isDir(snapshot))
	}
	return nil
}

// lstatIf is lstat of a path below top; nil where wanted is false.
func lstatIf(wanted bool, top, rel string) (*unix.Stat_t, error) {
	if !wanted {
		return nil, nil
	}
	return lstat(filepath.Join(top, rel))
}

// record counts one differing file and keeps its path if the limit allows. current is nil for a deleted file.
func (c *comparison) record(rel, what string, count *int, current *unix.Stat_t) {
	*count++
	if current != nil && current.Mode&unix.S_IFMT == unix.S_IFREG {
		c.result.Bytes += current.Size
	}
	if len(c.result.Paths) < c.limit {
		c.result.Paths = append(c.result.Paths, Change{Path: rel, What: what})
	}
}

// differs reports whether two files of the same path differ. The size and the times of a directory change with its
// entries, which are compared themselves, so they are ignored.
func (c *comparison) differs(rel string, current, snapshot *unix.Stat_t) bool {
	if current.Mode != snapshot.Mode || current.Uid != snapshot.Uid || current.Gid != snapshot.Gid {
		return true
	}
	if isDir(current) {
		return false
	}
	if current.Ino != snapshot.Ino || current.Size != snapshot.Size || current.Rdev != snapshot.Rdev {
		return true
	}
	if current.Mtim != snapshot.Mtim || current.Ctim != snapshot.Ctim {
		return true
	}
	if current.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	currentTarget, _ := os.Readlink(filepath.Join(c.currentTop, rel))
	snapshotTarget, _ := os.Readlink(filepath.Join(c.snapshotTop, rel))
	return currentTarget != snapshotTarget
}

func isDir(st *unix.Stat_t) bool { return st != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR }

// lstat returns nil if there is no such file.
func lstat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "compare: %w", &os.PathError{Op: "lstat", Path: path, Err: err})
	}
	return &st, nil
}

// listKeepingAtime returns the names in a directory, or none if it has vanished. It leaves the directory's access time
// as it is, because a preview must change nothing.
func listKeepingAtime(dir string) ([]string, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(dir, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM { // O_NOATIME is only for the directory's owner and root
		fd, err = unix.Open(dir, flags, 0)
	}
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	return f.Readdirnames(-1)
}
