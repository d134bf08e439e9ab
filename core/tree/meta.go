package tree

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attrMax is the size of the largest extended attribute, and of the largest list of their names, in bytes (limits.h:
// XATTR_SIZE_MAX, XATTR_LIST_MAX).
const attrMax = 64 << 10

// permissions are the bits of a mode that chmod(2) sets.
const permissions = 0o7777

// entryUnchanged reports whether the entry of `to` is known to be what the entry of `from` was made from.
func (j *job) entryUnchanged(e *entry) bool {
	return j.opts.Link == "" && sameStat(e.from, e.to) && j.saidUnchanged(e.rel, e.to)
}

// contentUnchanged reports the same of a file's content alone: owner, mode and attributes may differ.
func (j *job) contentUnchanged(e *entry) bool {
	alike := e.from.isFile() && e.to.isFile() && e.from.st.Size == e.to.st.Size && sameTime(e.from, e.to)
	return alike && j.opts.Link == "" && j.saidUnchanged(e.rel, e.to)
}

// saidUnchanged asks the caller whether the node is unchanged; see Options.Unchanged.
func (j *job) saidUnchanged(rel string, n *node) bool {
	return j.opts.Unchanged != nil && j.opts.Unchanged(rel, &n.st)
}

// sameStat reports whether owner, mode, mtime and, for a file, size are the same.
func sameStat(a, b *node) bool {
	return a.st.Uid == b.st.Uid && a.st.Gid == b.st.Gid && a.st.Mode == b.st.Mode && sameTime(a, b) &&
		(!a.isFile() || a.st.Size == b.st.Size)
}

func sameTime(a, b *node) bool {
	return a.st.Mtime.Sec == b.st.Mtime.Sec && a.st.Mtime.Nsec == b.st.Mtime.Nsec
}

// syncMetadata makes the metadata of an entry equal, and adds one to count if it differed. The order matters: chown
// clears the setuid bits and capabilities, and an ACL sets bits of the mode.
func (j *job) syncMetadata(e *entry, count *int64) error {
	if err := e.to.restat(); err != nil {
		return j.targetError("look at", e.rel, err)
	}
	set := false
	steps := []func(*job, *entry) (bool, error){
		(*job).adjustFlags, (*job).setOwner, (*job).setXattrs, (*job).setMode, (*job).setTime,
	}
	if j.entryUnchanged(e) { // saves the reading of extended attributes, which is slow from a FUSE mount
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
		if err := e.to.restat(); err != nil {
			return j.targetError("look at", e.rel, err)
		}
	}
	if set {
		*count++
	}
	return nil
}

// changeInPlace changes metadata of the entry by fn. It returns errDiffers if the entry must not be changed in place.
// action is a verb, for the message.
func (j *job) changeInPlace(e *entry, action string, fn func() error) (bool, error) {
	if !j.mayWriteInPlace(e) {
		return false, errDiffers
	}
	if err := j.gateMetadata(e); err != nil {
		return false, err
	}
	if err := j.unlock(e.to, e.rel); err != nil {
		return false, err
	}
	return true, j.targetError(action, e.rel, fn())
}

func (j *job) setOwner(e *entry) (bool, error) {
	want := &e.from.st
	if want.Uid == e.to.st.Uid && want.Gid == e.to.st.Gid {
		return false, nil
	}
	return j.changeInPlace(e, "set the owner of", func() error {
		return unix.Fchownat(e.to.fd, "", int(want.Uid), int(want.Gid), unix.AT_EMPTY_PATH)
	})
}

func (j *job) setMode(e *entry) (bool, error) {
	want := uint32(e.from.st.Mode & permissions)
	if e.from.kind() == unix.S_IFLNK || want == uint32(e.to.st.Mode&permissions) {
		return false, nil
	}
	return j.changeInPlace(e, "set the mode of", func() error { return unix.Chmod(e.to.path(), want) })
}

func (j *job) setTime(e *entry) (bool, error) {
	if sameTime(e.from, e.to) {
		return false, nil
	}
	want, before := e.from.st.Mtime, e.to.st.Mtime
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: want.Sec, Nsec: int64(want.Nsec)}}
	set, err := j.changeInPlace(e, "set the time of", func() error {
		return errors.Join(unix.UtimesNanoAt(unix.AT_FDCWD, e.to.path(), times, 0), e.to.restat())
	})
	if err != nil || !set || e.to.st.Mtime.Sec == want.Sec {
		return set, err
	}
	// The kernel takes the nearest time that the file system can hold, and says nothing.
	j.warn(e.rel, "its time of modification, "+time.Unix(want.Sec, 0).UTC().Format(time.RFC3339)+
		", is one that the file system of the copy cannot hold")
	return e.to.st.Mtime != before, nil
}

func (j *job) setXattrs(e *entry) (bool, error) {
	todo, err := j.attrChanges(e.from, e.to)
	if err != nil {
		return false, j.attrError(e, err)
	}
	for _, a := range todo {
		action := "set the attribute " + printable(a.name) + " of"
		if _, err := j.changeInPlace(e, action, func() error { return a.apply(e.to.path()) }); err != nil {
			return false, err
		}
	}
	return len(todo) > 0, nil
}

// attrChange is an extended attribute that is to be set or removed.
type attrChange struct {
	name   string
	value  []byte
	remove bool
}

func (a attrChange) apply(path string) error {
	if a.remove {
		return unix.Removexattr(path, a.name)
	}
	return unix.Setxattr(path, a.name, a.value, 0)
}

// sourceError marks an error as one of `from`.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

func (j *job) attrError(e *entry, err error) error {
	if source := (sourceError{}); errors.As(err, &source) {
		return j.noteUnreadableFile(e, source.error)
	}
	return j.targetError("read the attributes of", e.rel, err)
}

// attrChanges returns the changes that make the extended attributes of `to` equal to those of `from`. Attributes that
// the file system of `from` cannot hold are left as they are, since nothing is known about how they should be.
func (j *job) attrChanges(from, to *node) ([]attrChange, error) {
	wanted, err := j.listAttrs(from)
	if err != nil {
		return nil, sourceError{err}
	}
	present, err := j.listAttrs(to)
	if err != nil {
		return nil, err
	}
	var todo []attrChange
	for _, name := range wanted {
		value, err := j.readAttr(from, name, 0)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, sourceError{err}
		}
		have, err := j.readAttr(to, name, 1)
		if err != nil || !bytes.Equal(value, have) {
			todo = append(todo, attrChange{name: name, value: bytes.Clone(value)})
		}
	}
	for _, name := range present {
		if slices.Contains(wanted, name) {
			continue
		}
		if _, err := j.readAttr(from, name, 0); errors.Is(err, unix.ENODATA) {
			todo = append(todo, attrChange{name: name, remove: true})
		}
	}
	return todo, nil
}

// readAttr returns the value of an attribute, in one of the two attribute buffers. It is valid until that buffer's next
// use.
func (j *job) readAttr(n *node, name string, buffer int) ([]byte, error) {
	buf := lazyBuffer(&j.buffers.attr[buffer], attrMax)
	size, err := unix.Getxattr(n.path(), name, buf)
	return buf[:max(size, 0)], err
}

func (j *job) listAttrs(n *node) ([]string, error) {
	buf := lazyBuffer(&j.buffers.attr[0], attrMax)
	size, err := unix.Listxattr(n.path(), buf)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return splitNames(buf[:size]), nil
}

// splitNames parses a list of names as listxattr(2) returns it. Of the names that begin with "system." it returns only
// the POSIX ACLs: the others show what the file system stores elsewhere.
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
