package tree

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attrMax is the largest extended attribute, and the largest list of their names, in bytes (limits.h: XATTR_SIZE_MAX,
// XATTR_LIST_MAX).
const attrMax = 64 << 10

const permissions = 0o7777

// unchanged reports whether the entry of `to` is known to be what that of `from` was made of.
func (j *job) unchanged(e *entry) bool {
	return j.o.Link == "" && sameStat(e.from, e.to) && j.known(e.rel, e.to)
}

// sameContent is unchanged for a file whose owner, mode or attributes may be others in `from`.
func (j *job) sameContent(e *entry) bool {
	alike := e.from.isFile() && e.to.isFile() && e.from.st.Size == e.to.st.Size && sameTime(e.from, e.to)
	return alike && j.o.Link == "" && j.known(e.rel, e.to)
}

func (j *job) known(rel string, n *node) bool {
	return j.o.Unchanged != nil && j.o.Unchanged(rel, &n.st)
}

// sameStat reports whether what statx shows of a file's metadata is the same.
func sameStat(a, b *node) bool {
	return a.st.Uid == b.st.Uid && a.st.Gid == b.st.Gid && a.st.Mode == b.st.Mode && sameTime(a, b) &&
		(!a.isFile() || a.st.Size == b.st.Size)
}

func sameTime(a, b *node) bool {
	return a.st.Mtime.Sec == b.st.Mtime.Sec && a.st.Mtime.Nsec == b.st.Mtime.Nsec
}

// metadata makes the metadata of an entry equal and counts it if it was not. The order matters: chown takes away the
// setuid bits and capabilities, an ACL sets bits of the mode.
func (j *job) metadata(e *entry, count *int64) error {
	if err := e.to.stat(); err != nil {
		return j.failed("look at", e.rel, err)
	}
	set := false
	steps := []func(*job, *entry) (bool, error){(*job).keepFlags, (*job).owner, (*job).xattrs, (*job).mode, (*job).time}
	if j.unchanged(e) { // each extended attribute is a question to the program behind a FUSE mount
		steps = steps[:1]
	}
	for _, step := range steps {
		done, err := step(j, e)
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		set = true
		if err := e.to.stat(); err != nil {
			return j.failed("look at", e.rel, err)
		}
	}
	if set {
		*count++
	}
	return nil
}

// set changes metadata in place, if that is allowed.
func (j *job) set(e *entry, what string, fn func() error) (bool, error) {
	if !j.ours(e) {
		return false, errDiffers
	}
	if err := j.pay(e); err != nil {
		return false, err
	}
	if err := j.unlock(e.to, e.rel); err != nil {
		return false, err
	}
	return true, j.failed(what, e.rel, fn())
}

func (j *job) owner(e *entry) (bool, error) {
	want := &e.from.st
	if want.Uid == e.to.st.Uid && want.Gid == e.to.st.Gid {
		return false, nil
	}
	return j.set(e, "set the owner of", func() error {
		return unix.Fchownat(e.to.fd, "", int(want.Uid), int(want.Gid), unix.AT_EMPTY_PATH)
	})
}

func (j *job) mode(e *entry) (bool, error) {
	want := uint32(e.from.st.Mode & permissions)
	if e.from.kind() == unix.S_IFLNK || want == uint32(e.to.st.Mode&permissions) {
		return false, nil
	}
	return j.set(e, "set the mode of", func() error { return unix.Chmod(e.to.path(), want) })
}

func (j *job) time(e *entry) (bool, error) {
	if sameTime(e.from, e.to) {
		return false, nil
	}
	want := e.from.st.Mtime
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: want.Sec, Nsec: int64(want.Nsec)}}
	return j.set(e, "set the time of", func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, e.to.path(), times, 0) })
}

func (j *job) xattrs(e *entry) (bool, error) {
	todo, err := j.attributes(e.from, e.to)
	if err != nil {
		return false, j.attributeError(e, err)
	}
	for _, a := range todo {
		if _, err := j.set(e, "set the attribute "+printable(a.name)+" of", func() error { return a.apply(e.to.path()) }); err != nil {
			return false, err
		}
	}
	return len(todo) > 0, nil
}

// attribute is an extended attribute that is to be set, or removed.
type attribute struct {
	name   string
	value  []byte
	remove bool
}

func (a attribute) apply(path string) error {
	if a.remove {
		return unix.Removexattr(path, a.name)
	}
	return unix.Setxattr(path, a.name, a.value, 0)
}

// sourceError is an error in `from`.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

func (j *job) attributeError(e *entry, err error) error {
	if source := (sourceError{}); errors.As(err, &source) {
		return j.unreadableFile(e, source.error)
	}
	return j.failed("read the attributes of", e.rel, err)
}

// attributes returns what makes the extended attributes of a node equal to those of `from`. Those that the file system of
// `from` has no place for are left out: it says nothing of how they should be.
func (j *job) attributes(from, to *node) ([]attribute, error) {
	wanted, err := j.attrNames(from)
	if err != nil {
		return nil, sourceError{err}
	}
	present, err := j.attrNames(to)
	if err != nil {
		return nil, err
	}
	var todo []attribute
	for _, name := range wanted {
		value, err := j.attr(from, name, 0)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, sourceError{err}
		}
		have, err := j.attr(to, name, 1)
		if err != nil || !bytes.Equal(value, have) {
			todo = append(todo, attribute{name: name, value: bytes.Clone(value)})
		}
	}
	for _, name := range present {
		if slices.Contains(wanted, name) {
			continue
		}
		if _, err := j.attr(from, name, 0); errors.Is(err, unix.ENODATA) {
			todo = append(todo, attribute{name: name, remove: true})
		}
	}
	return todo, nil
}

// attr returns the value of an attribute, in the buffer of that number.
func (j *job) attr(n *node, name string, buffer int) ([]byte, error) {
	buf := made(&j.buffers.attr[buffer], attrMax)
	size, err := unix.Getxattr(n.path(), name, buf)
	return buf[:max(size, 0)], err
}

func (j *job) attrNames(n *node) ([]string, error) {
	buf := made(&j.buffers.attr[0], attrMax)
	size, err := unix.Listxattr(n.path(), buf)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return splitNames(buf[:size]), nil
}

// splitNames reads a list of names as listxattr(2) returns it. Of those below "system." only the POSIX ACLs belong to a
// file; the others are views of what its file system knows anyway.
func splitNames(list []byte) []string {
	var names []string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		s := string(name)
		if s == "" || strings.HasPrefix(s, "system.") && !strings.HasPrefix(s, "system.posix_acl_") {
			continue
		}
		names = append(names, s)
	}
	return names
}
