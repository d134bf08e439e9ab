package tree

import (
	"errors"

	"golang.org/x/sys/unix"
)

// worthShortening is from what size on the end of a file that is too long is cut off in advance: to make room. It bounds
// how many such files there are to remember.
const worthShortening = 1 << 20

// survey is the first pass. It counts, and it makes room before anything is written: what `from` lacks is deleted, and
// so is what is of another kind there. A dry one counts only.
type survey struct {
	*job
	dry  bool
	need Need
	once files         // of `from`, of which a name was met and there are more, here or elsewhere
	seen map[id]uint32 // how many names were met of files of `from`, if several
}

func newSurvey(j *job, dry bool) *survey {
	return &survey{job: j, dry: dry, once: files{}, seen: map[id]uint32{}}
}

func (s *survey) directory(d *dir) error {
	all, err := d.from.list()
	if err != nil {
		return s.unread(d.rel, err)
	}
	if err := s.extras(d, all); err != nil {
		return err
	}
	dirs := &names{}
	for i := range all.len() {
		e := d.at(all.get(i))
		isDir, err := s.entry(e)
		e.close()
		if err != nil {
			return err
		}
		if isDir {
			dirs.add(e.name)
		}
	}
	if d.altered {
		s.need.Most += Block
	}
	all = nil // while the directories below are worked on, only their names are kept
	for i := range dirs.len() {
		if err := s.subdirectory(d.at(dirs.get(i))); err != nil {
			return err
		}
	}
	return nil
}

// unread notes what cannot be opened or listed in `from` already now: even if the second pass can, nothing was deleted
// below it in `to`.
func (s *survey) unread(rel string, err error) error {
	if s.dry {
		return nil
	}
	return s.missed(rel, err)
}

// open notes nothing of what is gone: the second pass does.
func (s *survey) open(e *entry) (bool, error) {
	var err error
	e.from, err = e.in.from.child(e.name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, s.unread(e.rel, err)
	}
	err = s.openTo(e)
	if e.to != nil && e.to.flags() != 0 {
		s.flagged.add(printable(e.rel))
	}
	return true, err
}

// entry counts one entry and reports whether it is a directory to descend into.
func (s *survey) entry(e *entry) (isDir bool, err error) {
	if err := s.alive(e.rel); err != nil || s.skip[e.rel] {
		return false, err
	}
	if ok, err := s.open(e); !ok || err != nil {
		return false, err
	}
	if e.to != nil && e.to.kind() != e.from.kind() {
		if err := s.drop(e.in.to, e.name, e.rel); err != nil {
			return false, err
		}
		e.gone()
	}
	s.claim(e)
	s.weigh(e)
	if e.from.isDir() {
		return !s.foreign(e), nil
	}
	s.need.Files++
	if e.from.isFile() {
		s.need.Bytes += e.from.size()
	}
	s.progress.Files = s.need.Files
	s.report(e.rel)
	return false, s.shorten(e)
}

func (s *survey) subdirectory(e *entry) error {
	defer e.close()
	if ok, err := s.open(e); !ok || err != nil || !e.from.isDir() {
		return err
	}
	d := &dir{rel: e.rel, from: e.from}
	if e.to != nil && e.to.isDir() { // else a dry survey has left it there
		d.to = e.to
	}
	return s.directory(d)
}

// extras deletes what is in `to` only.
func (s *survey) extras(d *dir, wanted *names) error {
	for again := d.to != nil; again; {
		again = false
		for name, err := range d.to.each() {
			if s.dry && errors.Is(err, unix.ENOENT) {
				break // removed by whoever uses it
			}
			if err != nil {
				return s.failed("list", d.rel, err)
			}
			if wanted.has(name) {
				continue
			}
			d.altered = true
			before := s.done.Deleted
			if err := s.drop(d.to, name, d.at(name).rel); err != nil {
				return err
			}
			again = again || s.done.Deleted != before
		}
	}
	return nil
}

// drop deletes an entry of `to`, or counts it.
func (s *survey) drop(in *node, name, rel string) error {
	if s.dry {
		return s.weighBelow(in, name, rel)
	}
	_, err := s.remove(in, name, rel)
	return err
}

// weighBelow counts what deleting an entry of `to` needs.
func (s *survey) weighBelow(in *node, name, rel string) error {
	if err := s.alive(rel); err != nil || s.skip[rel] {
		return err
	}
	n, err := in.childIfAny(name)
	if n == nil || err != nil {
		return s.failed("open", rel, err)
	}
	defer n.close()
	if n.mounted(in) {
		return nil
	}
	s.need.Most += Block
	if !n.isDir() {
		return nil
	}
	for below, err := range n.each() {
		if errors.Is(err, unix.ENOENT) { // removed by whoever uses it: this pass only counts
			break
		}
		if err != nil {
			return s.failed("list", rel, err)
		}
		if err := s.weighBelow(n, below, rel+"/"+below); err != nil {
			return err
		}
	}
	return nil
}

// weigh adds what the entry needs. What is there may have to be deleted and made anew: two changes of metadata.
func (s *survey) weigh(e *entry) {
	if e.from.kind() == unix.S_IFSOCK || s.weighLink(e) {
		return
	}
	switch {
	case e.to == nil:
		data := e.from.data(0)
		s.need.Least += data
		s.need.Most += data + Block
		e.in.altered = true
	case e.from.isFile() && (s.mixed(e) || !s.sameContent(e)):
		if e.from.size() > e.to.size() {
			s.need.Least += e.from.data(roundUp(e.to.size()))
		}
		s.need.Most += e.from.data(0) + 2*Block
		e.in.altered = e.in.altered || e.to.st.Nlink > 1
	case !sameStat(e.from, e.to) || s.mixed(e):
		s.need.Most += 2 * Block
		e.in.altered = e.in.altered || !e.from.isDir() && (!e.from.isFile() || e.to.st.Nlink > 1)
	}
}

// weighLink adds what another name of a file needs that was weighed under its first. It reports false for the first.
// Where each file has names elsewhere, as in one of several dated trees, a bit is kept of each and no more.
func (s *survey) weighLink(e *entry) bool {
	if e.from.isDir() || e.from.st.Nlink < 2 {
		return false
	}
	is := e.from.id()
	if s.once.add(is) {
		return false
	}
	s.several.add(is)
	met := max(1, s.seen[is]) + 1
	s.seen[is] = met
	if met == e.from.st.Nlink {
		delete(s.seen, is)
	}
	if !s.joined(e, met) {
		s.need.Most += 2 * Block
		e.in.altered = true
	}
	return true
}

// joined reports whether all names of the file that were met are those of one file in `to`, too.
func (s *survey) joined(e *entry, met uint32) bool {
	if e.to == nil {
		return false
	}
	c := s.claims[e.to.id()]
	return c != nil && !c.mixed && c.names == met
}

// shorten cuts off the end of a file that is much too long. One that has other names is left to the second pass, which
// knows whether it may be written.
func (s *survey) shorten(e *entry) error {
	if s.dry || e.to == nil || !e.from.isFile() || e.to.st.Nlink > 1 || e.to.size()-e.from.size() < worthShortening {
		return nil
	}
	if err := s.pay(e); err != nil {
		return err
	}
	if err := s.unlock(e.to, e.rel); err != nil {
		return err
	}
	f, err := e.to.open(unix.O_WRONLY)
	if err != nil {
		return s.failed("open", e.rel, err)
	}
	defer f.Close()
	s.shortened[e.to.id()] = true
	return s.failed("shorten", e.rel, f.Truncate(e.from.size()))
}

// data returns how many bytes of a file are data from an offset on, in whole blocks: holes do not count.
func (n *node) data(from int64) int64 {
	size := n.size()
	if !n.isFile() || from >= size {
		return 0
	}
	if int64(n.st.Blocks)*512 >= size {
		return roundUp(size - from)
	}
	f, err := n.open(unix.O_RDONLY)
	if err != nil {
		return roundUp(size - from)
	}
	defer f.Close()
	var sum int64
	for at := from; at < size; {
		start, end := extent(f, at, size)
		sum += roundUp(end - start)
		at = end
	}
	return sum
}

func roundUp(n int64) int64 { return (n + Block - 1) / Block * Block }
