package tree

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// group is a file of `from` with several names, of which the first has been made in `to`.
type group struct {
	dir, name string // of the first, in `to`
	id        id     // of the first, in `to`
	left      uint32 // names of `from` not met yet

	// A live file system may give the inode to another file meanwhile.
	size  uint64
	mtime unix.StatxTimestamp
}

// claim says which file of `from` a file of `to` with several names is to become. Where it is to become several, it is
// parted; where it has names that no file of `from` claims, maybe outside of `to`, it is never written.
type claim struct {
	by    id
	names uint32
	mixed bool
}

// claim notes that a name of `to` is to become the entry of `from`. When it is found that the file has to be parted, the
// names that were met before, and weighed as if it had not, are weighed again: each is deleted and made anew.
func (s *survey) claim(e *entry) {
	if e.to == nil || e.to.isDir() || e.to.st.Nlink < 2 {
		return
	}
	c := s.claims[e.to.id()]
	if c == nil {
		c = &claim{by: e.from.id()}
		s.claims[e.to.id()] = c
	}
	if !c.mixed && c.by != e.from.id() {
		c.mixed = true
		s.need.Most += e.to.data(0) + int64(c.names)*3*Block
	}
	c.names++
}

// mixed reports whether the file of `to` has names that must not share it.
func (j *job) mixed(e *entry) bool {
	c := j.claims[e.to.id()]
	return !e.to.isDir() && e.to.st.Nlink > 1 && c != nil && c.mixed
}

// ours reports whether a change in place is seen under those names only that are to show it.
func (j *job) ours(e *entry) bool {
	if e.to.isDir() || e.to.st.Nlink < 2 {
		return true
	}
	c := j.claims[e.to.id()]
	return c != nil && !c.mixed && c.names >= e.to.st.Nlink
}

// lead makes the entry the one that the file's other names are linked to. If the survey met no other, they are
// elsewhere; of a live tree only until now.
func (j *job) lead(e *entry) {
	if e.from.st.Nlink < 2 || e.to == nil || !j.o.Live && !j.several.has(e.from.id()) {
		return
	}
	j.groups[e.from.id()] = &group{
		dir: e.in.rel, name: e.name, id: e.to.id(), left: e.from.st.Nlink - 1,
		size: e.from.st.Size, mtime: e.from.st.Mtime,
	}
}

// group returns the group the entry belongs to; nil: it is alone, or the first.
func (j *job) group(e *entry) *group {
	g := j.groups[e.from.id()]
	if g == nil || g.size != e.from.st.Size || g.mtime != e.from.st.Mtime {
		return nil
	}
	return g
}

// follow makes the entry another name of a file that has been made. It reports false where the file system cannot.
func (j *job) follow(e *entry, g *group) (bool, error) {
	if g.left--; g.left == 0 {
		delete(j.groups, e.from.id())
	}
	if e.to != nil && e.to.id() == g.id {
		return true, nil
	}
	if e.to != nil {
		if err := j.clear(e); err != nil {
			return false, err
		}
	}
	in, err := j.reach(g.dir)
	if err != nil {
		return false, j.failed("open", g.dir, err)
	}
	defer in.close()
	if err := j.unlockName(in, g.name, g.dir); err != nil {
		return false, err
	}
	return j.link(in, g.name, e, g.id)
}

// unlockName is unlock for the file of that name in a directory.
func (j *job) unlockName(in *node, name, dir string) error {
	if !j.o.Unlock {
		return nil
	}
	n, err := in.child(name)
	if err != nil {
		return j.failed("open", path.Join(dir, name), err)
	}
	defer n.close()
	return j.unlock(n, path.Join(dir, name))
}

// reach opens a directory of `to` by its path from the top.
func (j *job) reach(rel string) (*node, error) {
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

// link makes the entry a name of the file `name` in a directory, which is to be the inode wanted. It reports false
// where the file system cannot: too many links (EMLINK), another file system, none at all.
func (j *job) link(in *node, name string, e *entry, wanted id) (bool, error) {
	if err := j.pay(e); err != nil {
		return false, err
	}
	if err := j.unlockDir(e.in); err != nil {
		return false, err
	}
	err := unix.Linkat(in.fd, name, e.in.to.fd, e.name, 0)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, j.failed("link", e.rel, err)
	}
	if e.to, err = e.in.to.child(e.name); err != nil {
		return false, j.failed("open", e.rel, err)
	}
	if e.to.id() != wanted {
		return false, j.meddled(e)
	}
	j.done.Linked++
	return true, nil
}

// older links the entry to the same file of the older tree, if there is one.
func (j *job) older(e *entry) (bool, error) {
	if e.in.link == nil {
		return false, nil
	}
	old, err := e.in.link.child(e.name)
	if err != nil {
		return false, nil
	}
	defer old.close()
	same, err := j.sameFile(e, old)
	if !same || err != nil {
		return false, err
	}
	j.linked.add(old.st.Ino)
	return j.link(e.in.link, e.name, e, old.id())
}

// sameFile reports whether the entry is the same as a file of the older tree, and that file was not linked in this run
// yet: of two equal files of `from` that are no hard links of each other, the older tree may have made one.
func (j *job) sameFile(e *entry, old *node) (bool, error) {
	if !old.isFile() || !sameStat(e.from, old) || j.linked.has(old.st.Ino) {
		return false, nil
	}
	todo, err := j.attributes(e.from, old)
	if err != nil || len(todo) > 0 {
		return false, nil // whichever of them cannot be read: the copy will say so
	}
	if j.known(e.rel, e.from) {
		return true, nil
	}
	err = j.compare(e, old)
	if errors.Is(err, errDiffers) || errors.Is(err, errUnreadable) {
		return false, nil
	}
	return err == nil, err
}

// inodes is a set of inode numbers of one file system. Those of one tree lie close together, so a million of them take
// some hundred kilobytes.
type inodes map[uint64]*[inodesAtOnce / 64]uint64

const inodesAtOnce = 512

// add reports whether it is new.
func (s inodes) add(ino uint64) bool {
	if s.has(ino) {
		return false
	}
	some := s[ino/inodesAtOnce]
	if some == nil {
		some = new([inodesAtOnce / 64]uint64)
		s[ino/inodesAtOnce] = some
	}
	some[ino%inodesAtOnce/64] |= 1 << (ino % 64)
	return true
}

func (s inodes) has(ino uint64) bool {
	some := s[ino/inodesAtOnce]
	return some != nil && some[ino%inodesAtOnce/64]&(1<<(ino%64)) != 0
}

// files is a set of files, by their device.
type files map[uint64]inodes

// add reports whether it is new.
func (s files) add(f id) bool {
	if s[f.dev] == nil {
		s[f.dev] = inodes{}
	}
	return s[f.dev].add(f.ino)
}

func (s files) has(f id) bool { return s[f.dev].has(f.ino) }

// meddled is the failure to find in `to` what was made there a moment ago.
func (j *job) meddled(e *entry) error {
	return fault.New(fault.Busy, "%s was changed by another program meanwhile", j.target(e.rel)).
		WithHint("see who uses it (fuser -vm %s), and run this again", j.target(""))
}
