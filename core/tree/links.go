package tree

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// linkGroup is a file of `from` that has several hard links, of which the first has been made in `to`.
type linkGroup struct {
	dir, name string // of the link in `to` to which further ones are linked, the first; dir is relative to the root
	id        id     // of that link
	namesLeft uint32 // how many links of `from` are not met yet

	// Size and mtime in `from` tell whether the inode still belongs to the same file: in a live file system another
	// file may get the inode meanwhile.
	size  uint64
	mtime unix.StatxTimestamp
}

// claim is about a file of `to` that has several hard links. It says which file of `from` these links are to become. If
// they are to become several files, the file of `to` must be split. If it also has links that correspond to no entry of
// `from`, maybe outside `to`, it is never written.
type claim struct {
	by    id     // the file of `from` that the first of the links is to become
	names uint32 // how many of the links correspond to an entry of `from`
	split bool   // they are to become different files
}

// recordClaim records that a hard link in `to` is to become the entry of `from`. If that shows that the file must be
// split, the need of the links that were met before is corrected: each is deleted and made anew.
func (s *survey) recordClaim(e *entry) {
	if e.to == nil || e.to.isDir() || e.to.st.Nlink < 2 {
		return
	}
	c := s.claims[e.to.id()]
	if c == nil {
		c = &claim{by: e.from.id()}
		s.claims[e.to.id()] = c
	}
	if !c.split && c.by != e.from.id() {
		c.split = true
		s.need.Most += e.to.dataBytes(0) + int64(c.names)*3*Block
	}
	c.names++
}

// mustSplit reports whether the hard links of the file of `to` are to become different files.
func (j *job) mustSplit(e *entry) bool {
	c := j.claims[e.to.id()]
	return !e.to.isDir() && e.to.st.Nlink > 1 && c != nil && c.split
}

// mayWriteInPlace reports whether a change of the entry's file in place shows only under names that are to have that
// change.
func (j *job) mayWriteInPlace(e *entry) bool {
	if e.to.isDir() || e.to.st.Nlink < 2 {
		return true
	}
	c := j.claims[e.to.id()]
	return c != nil && !c.split && c.names >= e.to.st.Nlink
}

// startGroup makes the entry the one to which the file's other hard links will be linked. If the survey met no other
// link, all others are outside `from`; but a live tree may have got one since.
func (j *job) startGroup(e *entry) {
	if e.from.st.Nlink < 2 || e.to == nil || !j.opts.Live && !j.severalNames.has(e.from.id()) {
		return
	}
	j.linkGroups[e.from.id()] = &linkGroup{
		dir: e.in.rel, name: e.name, id: e.to.id(), namesLeft: e.from.st.Nlink - 1,
		size: e.from.st.Size, mtime: e.from.st.Mtime,
	}
}

// groupOf returns the group of hard links to which the entry belongs, or nil if the entry has no other link or is the
// first one.
func (j *job) groupOf(e *entry) *linkGroup {
	g := j.linkGroups[e.from.id()]
	if g == nil || g.size != e.from.st.Size || g.mtime != e.from.st.Mtime {
		return nil
	}
	return g
}

// linkToGroup makes the entry a hard link to the group's file in `to`. It returns false if the file system cannot do
// that.
func (j *job) linkToGroup(e *entry, g *linkGroup) (bool, error) {
	if g.namesLeft--; g.namesLeft == 0 {
		delete(j.linkGroups, e.from.id())
	}
	if e.to != nil && e.to.id() == g.id {
		return true, nil
	}
	if e.to != nil {
		if err := j.removeTo(e); err != nil {
			return false, err
		}
	}
	in, err := j.openPath(g.dir)
	if err != nil {
		return false, j.targetError("open", g.dir, err)
	}
	defer in.close()
	if err := j.unlockName(in, g.name, g.dir); err != nil {
		return false, err
	}
	return j.link(in, g.name, e, g.id)
}

// createSeparately makes the entry a file of its own, because it could not be linked to the group's file in `to`. The
// file's other hard links will be linked to this one.
func (j *job) createSeparately(e *entry, g *linkGroup) error {
	j.warn(e.rel, "the file system makes no hard link to "+printable(path.Join(g.dir, g.name))+
		" here, so this is a file of its own")
	err := j.create(e)
	if err == nil && e.to != nil {
		g.dir, g.name, g.id = e.in.rel, e.name, e.to.id()
	}
	return err
}

// unlockName is unlock for the file of that name in a directory, whose path is dir.
func (j *job) unlockName(in *node, name, dir string) error {
	if !j.opts.Unlock {
		return nil
	}
	n, err := in.child(name)
	if err != nil {
		return j.targetError("open", path.Join(dir, name), err)
	}
	defer n.close()
	return j.unlock(n, path.Join(dir, name))
}

// openPath opens an entry of `to` by its path relative to the root, one name at a time.
func (j *job) openPath(rel string) (*node, error) {
	at, err := j.root.to.child(".")
	for name := range strings.SplitSeq(rel, "/") {
		if err != nil || name == "" {
			return at, err
		}
		above := at
		at, err = above.child(name)
		above.close()
	}
	return at, err
}

// link makes the entry a hard link to the file `name` in the directory `in`, which must have the inode wanted. It
// returns false if the file system cannot do that: the file has too many links (EMLINK), it is on another file system
// (EXDEV), or there are no hard links at all.
func (j *job) link(in *node, name string, e *entry, wanted id) (bool, error) {
	if err := j.gateMetadata(e); err != nil {
		return false, err
	}
	if err := j.unlockDir(e.in); err != nil {
		return false, err
	}
	err := unix.Linkat(in.fd, name, e.in.to.fd, e.name, 0)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, j.targetError("link", e.rel, err)
	}
	if e.to, err = e.in.to.child(e.name); err != nil {
		return false, j.targetError("open", e.rel, err)
	}
	if e.to.id() != wanted {
		return false, j.changedByOther(e)
	}
	j.done.Linked++
	return true, nil
}

// linkOlder makes the entry a hard link to the same file of the older tree, and returns false if there is none.
func (j *job) linkOlder(e *entry) (bool, error) {
	if e.in.link == nil {
		return false, nil
	}
	old, err := e.in.link.child(e.name)
	if err != nil {
		return false, nil
	}
	defer old.close()
	same, err := j.sameAsOlder(e, old)
	if !same || err != nil {
		return false, err
	}
	j.linkedOlder.add(old.st.Ino)
	return j.link(e.in.link, e.name, e, old.id())
}

// maxLinks is how many hard links ext4 allows of one file, the fewest of the usual file systems.
const maxLinks = 65000

// sameAsOlder reports whether the entry has the content and metadata of a file of the older tree, and this job has not
// yet linked to that file. Each file is linked to only once, because two names that share it in the older tree may be
// two files in `from` by now. A file that has no room for all links of the entry is not linked to: they would become
// several files.
func (j *job) sameAsOlder(e *entry, old *node) (bool, error) {
	full := int64(old.st.Nlink)+int64(e.from.st.Nlink) > maxLinks
	if full || !old.isFile() || !sameStat(e.from, old) || j.linkedOlder.has(old.st.Ino) {
		return false, nil
	}
	todo, err := j.attrChanges(e.from, old)
	if err != nil || len(todo) > 0 {
		return false, nil // if it is `from` that cannot be read, copying the file will fail and say so
	}
	if j.saidUnchanged(e.rel, e.from) {
		return true, nil
	}
	err = j.compareContent(e, old)
	if errors.Is(err, errDiffers) || errors.Is(err, errUnreadable) {
		return false, nil
	}
	return err == nil, err
}

// inodeSet is a set of inode numbers of one file system. The key is the inode number divided by inodesPerBitmap. The
// inode numbers of one tree lie close together, so a million of them take some hundred kilobytes.
type inodeSet map[uint64]*[inodesPerBitmap / 64]uint64

const inodesPerBitmap = 512

// add adds an inode and reports whether it is new.
func (s inodeSet) add(ino uint64) bool {
	if s.has(ino) {
		return false
	}
	bitmap := s[ino/inodesPerBitmap]
	if bitmap == nil {
		bitmap = new([inodesPerBitmap / 64]uint64)
		s[ino/inodesPerBitmap] = bitmap
	}
	bitmap[ino%inodesPerBitmap/64] |= 1 << (ino % 64)
	return true
}

func (s inodeSet) has(ino uint64) bool {
	bitmap := s[ino/inodesPerBitmap]
	return bitmap != nil && bitmap[ino%inodesPerBitmap/64]&(1<<(ino%64)) != 0
}

// fileSet is a set of files: the inodes of each device.
type fileSet map[uint64]inodeSet

// add adds a file and reports whether it is new.
func (s fileSet) add(f id) bool {
	if s[f.dev] == nil {
		s[f.dev] = inodeSet{}
	}
	return s[f.dev].add(f.ino)
}

func (s fileSet) has(f id) bool { return s[f.dev].has(f.ino) }

// changedByOther returns the fault for an entry of `to` that is no longer what this job made of it a moment ago.
func (j *job) changedByOther(e *entry) error {
	return fault.New(fault.Busy, "%s was changed by another program meanwhile", j.targetPath(e.rel)).
		WithHint("see who uses it (fuser -vm %s), and run this again", j.targetPath(""))
}
