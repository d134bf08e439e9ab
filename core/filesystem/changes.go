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

// Change is a file that differs between two trees.
type Change struct {
	Path string `json:"path"` // from the top of the trees
	What string `json:"what"` // changed, new, deleted
}

// Changes is what became of a tree.
type Changes struct {
	Changed int      `json:"changed"`
	New     int      `json:"new"`     // in the later tree only
	Deleted int      `json:"deleted"` // in the earlier tree only
	Bytes   int64    `json:"bytes"`   // the sizes of the files that are changed or new, as they are now
	Paths   []Change `json:"paths"`   // the first of them, in the trees' order
}

// Changed compares a file system as it is now with its snapshot, without
// reading a file: by type, size, times of change, mode, owner and link target.
// A time of change cannot be set, so a file that was written and given its old
// date is found all the same. What is mounted below either tree is left out. At
// most limit paths are named; the counts are of everything, directories
// included.
//
// now may be in use: what vanishes meanwhile counts as deleted. Memory is that
// of the names in one directory and those above it.
func Changed(ctx context.Context, now, then string, limit int) (Changes, error) {
	c := comparison{ctx: ctx, now: now, then: then, limit: limit, result: Changes{Paths: []Change{}}}
	var err error
	if c.nowDev, err = deviceOfDir(now); err != nil {
		return c.result, err
	}
	if c.thenDev, err = deviceOfDir(then); err != nil {
		return c.result, err
	}
	err = c.directory(".", true, true)
	return c.result, err
}

func deviceOfDir(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fault.New(fault.NotFound, "compare %s: %w", dir, err)
	}
	return st.Dev, nil
}

type comparison struct {
	ctx             context.Context
	now, then       string
	nowDev, thenDev uint64
	limit           int
	result          Changes
}

// directory compares one directory, which is in one tree or in both.
func (c *comparison) directory(rel string, inNow, inThen bool) error {
	if c.ctx.Err() != nil {
		return fault.Of(c.ctx.Err())
	}
	var all []string
	for _, tree := range []struct {
		top string
		has bool
	}{{c.now, inNow}, {c.then, inThen}} {
		if !tree.has {
			continue
		}
		entries, err := list(filepath.Join(tree.top, rel))
		if err != nil {
			return fault.New(fault.Internal, "compare: %w", err)
		}
		all = append(all, entries...)
	}
	slices.Sort(all)
	for _, name := range slices.Compact(all) {
		if err := c.entry(path.Join(rel, name), inNow, inThen); err != nil {
			return err
		}
	}
	return nil
}

// entry compares what has one name.
func (c *comparison) entry(rel string, inNow, inThen bool) error {
	var now, then *unix.Stat_t
	var err error
	if inNow {
		if now, err = lstat(filepath.Join(c.now, rel)); err != nil {
			return err
		}
	}
	if inThen {
		if then, err = lstat(filepath.Join(c.then, rel)); err != nil {
			return err
		}
	}
	if now != nil && now.Dev != c.nowDev || then != nil && then.Dev != c.thenDev {
		return nil // something else is mounted there
	}
	switch {
	case now == nil && then == nil: // vanished while we looked
		return nil
	case then == nil:
		c.note(rel, "new", &c.result.New, now)
	case now == nil:
		c.note(rel, "deleted", &c.result.Deleted, nil)
	case c.differ(rel, now, then):
		c.note(rel, "changed", &c.result.Changed, now)
	}
	if isDir(now) || isDir(then) {
		return c.directory(rel, isDir(now), isDir(then))
	}
	return nil
}

func (c *comparison) note(rel, what string, count *int, now *unix.Stat_t) {
	*count++
	if now != nil && now.Mode&unix.S_IFMT == unix.S_IFREG {
		c.result.Bytes += now.Size
	}
	if len(c.result.Paths) < c.limit {
		c.result.Paths = append(c.result.Paths, Change{Path: rel, What: what})
	}
}

// differ compares two files of one name. A directory's size and times tell of
// its entries, which are compared themselves.
func (c *comparison) differ(rel string, now, then *unix.Stat_t) bool {
	if now.Mode != then.Mode || now.Uid != then.Uid || now.Gid != then.Gid {
		return true
	}
	if isDir(now) {
		return false
	}
	if now.Ino != then.Ino || now.Size != then.Size || now.Rdev != then.Rdev {
		return true
	}
	if now.Mtim != then.Mtim || now.Ctim != then.Ctim {
		return true
	}
	if now.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	to, _ := os.Readlink(filepath.Join(c.now, rel))
	was, _ := os.Readlink(filepath.Join(c.then, rel))
	return to != was
}

func isDir(st *unix.Stat_t) bool { return st != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR }

// lstat returns nil for what does not exist.
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

// list returns the names in a directory, none if it vanished. It leaves the
// directory's time of access alone: a preview changes nothing.
func list(dir string) ([]string, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(dir, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM { // not ours, and we are not root
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
