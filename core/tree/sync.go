package tree

import (
	"errors"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// errDiffers says that an entry of `to` is not equal and must not, or cannot, be made equal in place: it must be
// replaced.
var errDiffers = errors.New("differs")

// errUnreadable says that a file of `from` could not be read to its end. Whoever returns it has noted that already.
var errUnreadable = errors.New("unreadable")

// writePass is the second pass, after the survey: it makes the trees equal.
func (j *job) writePass() error {
	if err := j.syncDir(&j.root); err != nil {
		return err
	}
	return ignoreNoted(j.syncMetadata(&entry{from: j.root.from, to: j.root.to}, &j.done.Metadata))
}

// checkSameEntries returns an error if the second pass has not met as many entries of `from` as the survey. What is
// removed between the two passes is not listed by the second one, which then leaves its pair in `to` as it is.
func (j *job) checkSameEntries(surveyed int64) error {
	if j.opts.Live || j.entries == surveyed || len(j.unreadable.first) > 0 {
		return nil
	}
	return fault.New(fault.SourceVanished,
		"%s had %d files and directories at first, and %d when they were read; it should not change",
		printable(j.from), surveyed, j.entries)
}

// ignoreNoted returns nil for errUnreadable, so that the work goes on after a file that could not be read.
func ignoreNoted(err error) error {
	if errors.Is(err, errUnreadable) {
		return nil
	}
	return err
}

// syncDir makes the entries of a directory equal. Directories come last, so that while it descends only their names
// need to be kept in memory.
func (j *job) syncDir(d *dir) error {
	all, err := d.from.sortedNames()
	if err != nil {
		return j.noteSourceError(d.rel, err)
	}
	dirs := &names{}
	for i := range all.len() {
		e := d.newEntry(all.get(i))
		isDir, err := j.syncEntry(e)
		e.close()
		if err != nil {
			return err
		}
		if isDir {
			dirs.add(e.name)
		}
	}
	all = nil
	for i := range dirs.len() {
		e := d.newEntry(dirs.get(i))
		err := j.syncSubdir(e)
		e.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// syncEntry makes an entry equal unless it is a directory, and reports whether it is one.
func (j *job) syncEntry(e *entry) (isDir bool, err error) {
	if err := j.checkContext(e.rel); err != nil || j.skip[e.rel] {
		return false, err
	}
	if ok, err := j.openEntry(e); !ok || err != nil {
		return false, err
	}
	j.entries++
	if e.from.isDir() {
		return true, nil
	}
	j.tellFlags(e) // also of a file that becomes a link, whose metadata is not looked at
	done := j.progress.Done
	err = j.syncLeaf(e)
	if errors.Is(err, errDiffers) { // it was replaced and differs again: another program made a link to it at once
		err = j.changedByOther(e)
	}
	if err := ignoreNoted(err); err != nil {
		return false, err
	}
	j.progress.Files++
	j.progress.Done = done
	if e.from.isFile() {
		j.progress.Done += e.from.size()
	}
	j.report(e.rel)
	return false, nil
}

// syncLeaf makes an entry equal that is not a directory.
func (j *job) syncLeaf(e *entry) error {
	if j.isLeftOut(e) {
		return nil
	}
	if e.to != nil && (e.to.kind() != e.from.kind() || j.mustSplit(e)) {
		if err := j.removeTo(e); err != nil {
			return err
		}
	}
	if g := j.groupOf(e); g != nil {
		if ok, err := j.linkToGroup(e, g); ok || err != nil {
			return err
		}
		return j.createSeparately(e, g)
	}
	if err := j.updateOrCreate(e); err != nil {
		return err
	}
	j.startGroup(e)
	return nil
}

// isLeftOut is true for an entry that cannot be made equal, or must not be touched. It adds a warning.
func (j *job) isLeftOut(e *entry) bool {
	switch {
	case e.from.kind() == unix.S_IFSOCK:
		j.warn(e.rel, "a socket, left out")
	case j.opts.NoDevices && e.from.isDevice() && (e.to == nil || e.to.kind() != e.from.kind()):
		j.warn(e.rel, "a device node whose number is not shown, left out")
	case e.to != nil && j.opts.OneFileSystem && e.to.isMountPoint(e.in.to):
		j.warnings.add(j.targetPath(e.rel) + ": a mount point, left as it is")
	default:
		return false
	}
	return true
}

// updateOrCreate makes an entry equal of which no other hard link has been made yet.
func (j *job) updateOrCreate(e *entry) error {
	if e.to == nil {
		return j.create(e)
	}
	err := j.updateInPlace(e)
	if !errors.Is(err, errDiffers) {
		return err
	}
	had := e.to.flags()
	if err := j.removeTo(e); err != nil {
		return err
	}
	err = j.create(e)
	j.inheritFlags(e, had)
	return err
}

// updateInPlace makes an entry equal in place.
func (j *job) updateInPlace(e *entry) error {
	count := &j.done.Metadata
	switch e.from.kind() {
	case unix.S_IFREG:
		changed, err := j.syncContent(e)
		if changed {
			j.done.Changed++
			count = new(int64)
		}
		if err != nil {
			return err
		}
	case unix.S_IFLNK:
		if same, err := j.sameLinkTarget(e); !same || err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if !j.opts.NoDevices && (e.from.st.Rdev_major != e.to.st.Rdev_major || e.from.st.Rdev_minor != e.to.st.Rdev_minor) {
			return errDiffers
		}
	}
	return j.syncMetadata(e, count)
}

func (j *job) sameLinkTarget(e *entry) (bool, error) {
	want, err := e.from.linkTarget()
	if err != nil {
		return false, j.noteUnreadableFile(e, err)
	}
	have, err := e.to.linkTarget()
	if err != nil {
		return false, j.targetError("read", e.rel, err)
	}
	if have != want {
		return false, errDiffers
	}
	return true, nil
}

// create makes an entry that is missing in `to`.
func (j *job) create(e *entry) error {
	var err error
	switch e.from.kind() {
	case unix.S_IFREG:
		linked, err := j.linkOlder(e)
		if linked || err != nil {
			return err
		}
		return j.createFile(e)
	case unix.S_IFLNK:
		target, readErr := e.from.linkTarget()
		if readErr != nil {
			return j.noteUnreadableFile(e, readErr)
		}
		err = j.makeEntry(e, func() error { return unix.Symlinkat(target, e.in.to.fd, e.name) })
	default:
		device := unix.Mkdev(e.from.st.Rdev_major, e.from.st.Rdev_minor)
		err = j.makeEntry(e, func() error {
			return unix.Mknodat(e.in.to.fd, e.name, uint32(e.from.kind())|0o600, int(device))
		})
	}
	if err != nil {
		return err
	}
	return j.syncMetadata(e, new(int64))
}

// makeEntry calls create to make the entry, and opens it. If another program has put something else in its place in
// between, it fails: a hard link to some other file is recognized by its number of links.
func (j *job) makeEntry(e *entry, create func() error) error {
	if err := j.gateMetadata(e); err != nil {
		return err
	}
	if err := j.unlockDir(e.in); err != nil {
		return err
	}
	if err := create(); err != nil {
		return j.targetError("create", e.rel, err)
	}
	j.done.Created++
	var err error
	if e.to, err = e.in.to.child(e.name); err != nil {
		return j.targetError("open", e.rel, err)
	}
	if e.to.kind() != e.from.kind() || !e.to.isDir() && e.to.st.Nlink != 1 {
		return j.changedByOther(e)
	}
	return nil
}

// createFile copies a file. If the file cannot be read to its end, the unfinished copy is removed.
func (j *job) createFile(e *entry) error {
	src, err := j.openSource(e.from)
	if err != nil {
		return j.noteUnreadableFile(e, err)
	}
	defer src.Close()
	err = j.makeEntry(e, func() error {
		const flags = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_WRONLY | unix.O_CLOEXEC
		fd, err := unix.Openat(e.in.to.fd, e.name, flags, 0o600)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	if err != nil {
		return err
	}
	c := contentSync{job: j, e: e, src: src, to: e.to, size: e.from.size()}
	defer c.close()
	if err := c.run(); errors.Is(err, errUnreadable) {
		j.done.Created--
		j.done.Deleted--
		return errors.Join(j.removeTo(e), err)
	} else if err != nil {
		return err
	}
	return j.syncMetadata(e, new(int64))
}

// syncSubdir makes a directory and everything below it equal. The directory's own metadata comes last, because whatever
// is made in the directory changes its mtime.
func (j *job) syncSubdir(e *entry) error {
	if ok, err := j.openEntry(e); !ok || err != nil {
		return err
	}
	if !e.from.isDir() {
		return j.noteSourceError(e.rel, unix.ENOENT) // it was a directory a moment ago
	}
	if e.to != nil && !e.to.isDir() {
		if err := j.removeTo(e); err != nil {
			return err
		}
	}
	count := &j.done.Metadata
	if e.to == nil {
		count = new(int64)
		if err := j.makeEntry(e, func() error { return unix.Mkdirat(e.in.to.fd, e.name, 0o700) }); err != nil {
			return err
		}
	}
	if j.opts.OneFileSystem && e.to.isMountPoint(e.in.to) {
		return nil
	}
	if !j.isOtherMount(e) {
		if err := j.syncBelow(e); err != nil {
			return err
		}
	}
	return ignoreNoted(j.syncMetadata(e, count))
}

// syncBelow makes everything in a directory equal.
func (j *job) syncBelow(e *entry) error {
	d := &dir{rel: e.rel, from: e.from, to: e.to}
	if e.in.link != nil {
		if link, err := e.in.link.child(e.name); err == nil {
			defer link.close()
			if link.isDir() {
				d.link = link
			}
		}
	}
	return j.syncDir(d)
}

// noteUnreadableFile notes a file of `from` that cannot be read, and returns errUnreadable, or the error that ends the
// work.
func (j *job) noteUnreadableFile(e *entry, err error) error {
	if err := j.noteSourceError(e.rel, err); err != nil {
		return err
	}
	return errUnreadable
}
