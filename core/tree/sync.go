package tree

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errDiffers says that an entry of `to` is not equal and must not, or cannot, be made so in place: another is made.
var errDiffers = errors.New("differs")

// errUnreadable says that a file of `from` could not be read to its end, which has been noted.
var errUnreadable = errors.New("unreadable")

// top is the second pass.
func (j *job) top() error {
	if err := j.directory(&j.root); err != nil {
		return err
	}
	return noted(j.metadata(&entry{from: j.root.from, to: j.root.to}, &j.done.Metadata))
}

// noted lets the work go on after what has been noted.
func noted(err error) error {
	if errors.Is(err, errUnreadable) {
		return nil
	}
	return err
}

// directory makes the entries of a directory equal: first those that are no directories, so that while it descends only
// the names of the others are kept.
func (j *job) directory(d *dir) error {
	all, err := d.from.list()
	if err != nil {
		return j.missed(d.rel, err)
	}
	dirs := &names{}
	for i := range all.len() {
		e := d.at(all.get(i))
		isDir, err := j.entry(e)
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
		e := d.at(dirs.get(i))
		err := j.subdirectory(e)
		e.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// entry makes what is no directory equal, and reports of others that they are one.
func (j *job) entry(e *entry) (isDir bool, err error) {
	if err := j.alive(e.rel); err != nil || j.skip[e.rel] {
		return false, err
	}
	if ok, err := j.open(e); !ok || err != nil {
		return false, err
	}
	if e.from.isDir() {
		return true, nil
	}
	done := j.progress.Done
	err = j.leaf(e)
	if errors.Is(err, errDiffers) { // also after it was made anew: somebody has linked it elsewhere at once
		err = j.meddled(e)
	}
	if err := noted(err); err != nil {
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

// leaf makes an entry equal that is no directory.
func (j *job) leaf(e *entry) error {
	if e.from.kind() == unix.S_IFSOCK {
		j.warn(e.rel, "a socket, left out")
		return nil
	}
	if j.o.NoDevices && e.from.isDevice() && (e.to == nil || e.to.kind() != e.from.kind()) {
		j.warn(e.rel, "a device node whose number is not shown, left out")
		return nil
	}
	if e.to != nil && j.o.OneFileSystem && e.to.mounted(e.in.to) {
		j.warnings.add(j.target(e.rel) + ": a mount point, left as it is")
		return nil
	}
	if e.to != nil && (e.to.kind() != e.from.kind() || j.mixed(e)) {
		if err := j.clear(e); err != nil {
			return err
		}
	}
	if g := j.group(e); g != nil {
		if ok, err := j.follow(e, g); ok || err != nil {
			return err
		}
		return j.create(e)
	}
	if err := j.lone(e); err != nil {
		return err
	}
	j.lead(e)
	return nil
}

// lone makes an entry equal that is not yet there under another name.
func (j *job) lone(e *entry) error {
	if e.to == nil {
		return j.create(e)
	}
	err := j.update(e)
	if !errors.Is(err, errDiffers) {
		return err
	}
	had := e.to.flags()
	if err := j.clear(e); err != nil {
		return err
	}
	err = j.create(e)
	j.carryFlags(e, had)
	return err
}

// update makes an entry equal in place.
func (j *job) update(e *entry) error {
	count := &j.done.Metadata
	switch e.from.kind() {
	case unix.S_IFREG:
		changed, err := j.content(e)
		if changed {
			j.done.Changed++
			count = new(int64)
		}
		if err != nil {
			return err
		}
	case unix.S_IFLNK:
		if same, err := j.sameTarget(e); !same || err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if !j.o.NoDevices && (e.from.st.Rdev_major != e.to.st.Rdev_major || e.from.st.Rdev_minor != e.to.st.Rdev_minor) {
			return errDiffers
		}
	}
	return j.metadata(e, count)
}

func (j *job) sameTarget(e *entry) (bool, error) {
	want, err := e.from.target()
	if err != nil {
		return false, j.unreadableFile(e, err)
	}
	have, err := e.to.target()
	if err != nil {
		return false, j.failed("read", e.rel, err)
	}
	if have != want {
		return false, errDiffers
	}
	return true, nil
}

// create makes an entry that is not there.
func (j *job) create(e *entry) error {
	var err error
	switch e.from.kind() {
	case unix.S_IFREG:
		linked, err := j.older(e)
		if linked || err != nil {
			return err
		}
		return j.createFile(e)
	case unix.S_IFLNK:
		target, readErr := e.from.target()
		if readErr != nil {
			return j.unreadableFile(e, readErr)
		}
		err = j.make(e, func() error { return unix.Symlinkat(target, e.in.to.fd, e.name) })
	default:
		device := unix.Mkdev(e.from.st.Rdev_major, e.from.st.Rdev_minor)
		err = j.make(e, func() error {
			return unix.Mknodat(e.in.to.fd, e.name, uint32(e.from.kind())|0o600, int(device))
		})
	}
	if err != nil {
		return err
	}
	return j.metadata(e, new(int64))
}

// make makes the entry by fn and opens it. What was put in its place meanwhile as another name of a file elsewhere is
// told by having several.
func (j *job) make(e *entry, fn func() error) error {
	if err := j.pay(e); err != nil {
		return err
	}
	if err := j.unlockDir(e.in); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return j.failed("create", e.rel, err)
	}
	j.done.Created++
	var err error
	if e.to, err = e.in.to.child(e.name); err != nil {
		return j.failed("open", e.rel, err)
	}
	if e.to.kind() != e.from.kind() || !e.to.isDir() && e.to.st.Nlink != 1 {
		return j.meddled(e)
	}
	return nil
}

// createFile copies a file. One that cannot be read to its end is not left behind.
func (j *job) createFile(e *entry) error {
	src, err := j.openSource(e.from)
	if err != nil {
		return j.unreadableFile(e, err)
	}
	defer src.Close()
	err = j.make(e, func() error {
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
	p := pour{job: j, e: e, src: src, to: e.to, size: e.from.size()}
	defer p.close()
	if err := p.run(); errors.Is(err, errUnreadable) {
		j.done.Created--
		j.done.Deleted--
		return errors.Join(j.clear(e), err)
	} else if err != nil {
		return err
	}
	return j.metadata(e, new(int64))
}

// subdirectory makes a directory and all below it equal. Its own metadata comes last: what is made below it changes its
// time.
func (j *job) subdirectory(e *entry) error {
	if ok, err := j.open(e); !ok || err != nil {
		return err
	}
	if !e.from.isDir() {
		return j.missed(e.rel, unix.ENOENT) // it was one a moment ago
	}
	if e.to != nil && !e.to.isDir() {
		if err := j.clear(e); err != nil {
			return err
		}
	}
	count := &j.done.Metadata
	if e.to == nil {
		count = new(int64)
		if err := j.make(e, func() error { return unix.Mkdirat(e.in.to.fd, e.name, 0o700) }); err != nil {
			return err
		}
	}
	if j.o.OneFileSystem && e.to.mounted(e.in.to) {
		return nil
	}
	if !j.foreign(e) {
		if err := j.below(e); err != nil {
			return err
		}
	}
	return noted(j.metadata(e, count))
}

// below descends.
func (j *job) below(e *entry) error {
	d := &dir{rel: e.rel, from: e.from, to: e.to}
	if e.in.link != nil {
		if link, err := e.in.link.child(e.name); err == nil {
			defer link.close()
			if link.isDir() {
				d.link = link
			}
		}
	}
	return j.directory(d)
}

// unreadableFile notes a file that cannot be read.
func (j *job) unreadableFile(e *entry, err error) error {
	if err := j.missed(e.rel, err); err != nil {
		return err
	}
	return errUnreadable
}
