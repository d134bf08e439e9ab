package tree

import (
	"errors"

	"golang.org/x/sys/unix"
)

// minEarlyTruncation is how many bytes a file of `to` must be too long for the survey to shorten it in advance, in
// order to make room. It also limits how many of these files have to be remembered.
const minEarlyTruncation = 1 << 20

// survey is the first pass. It counts, and it makes room before anything is written: it deletes what `from` lacks and
// what is of another kind in `from`. A dry survey only counts.
type survey struct {
	*job
	dry      bool
	need     Need
	metOnce  fileSet       // files of `from` with several hard links, of which at least one was met
	namesMet map[id]uint32 // how many hard links of a file of `from` were met, if several but not yet all
	entries  int64         // of `from`, with directories
}

func newSurvey(j *job, dry bool) *survey {
	return &survey{job: j, dry: dry, metOnce: fileSet{}, namesMet: map[id]uint32{}}
}

func (s *survey) scanDir(d *dir) error {
	all, err := d.from.sortedNames()
	if err != nil {
		return s.noteUnreadable(d.rel, err)
	}
	if err := s.deleteExtras(d, all); err != nil {
		return err
	}
	dirs := &names{}
	for i := range all.len() {
		e := d.newEntry(all.get(i))
		isDir, err := s.scanEntry(e)
		e.close()
		if err != nil {
			return err
		}
		if isDir {
			dirs.add(e.name)
		}
	}
	if d.entriesChange {
		s.need.Most += Block
	}
	all = nil // while the survey descends, only the names of directories are kept in memory
	for i := range dirs.len() {
		if err := s.scanSubdir(d.newEntry(dirs.get(i))); err != nil {
			return err
		}
	}
	return nil
}

// noteUnreadable notes what cannot be opened or listed in `from`. The survey notes it and does not leave that to the
// second pass: even if the second pass can read it, nothing below it was deleted in `to`.
func (s *survey) noteUnreadable(rel string, err error) error {
	if s.dry {
		return nil
	}
	return s.noteSourceError(rel, err)
}

// openForScan opens the entry in both trees, and reports whether it could be opened in `from`. In a live tree an entry
// that has vanished is not noted: the second pass does that, if it is still listed then.
func (s *survey) openForScan(e *entry) (bool, error) {
	var err error
	e.from, err = e.in.from.child(e.name)
	if errors.Is(err, unix.ENOENT) && s.opts.Live {
		return false, nil
	}
	if err != nil {
		return false, s.noteUnreadable(e.rel, err)
	}
	err = s.openTo(e)
	if e.to != nil && e.to.flags() != 0 {
		s.flagged.add(printable(e.rel))
	}
	return true, err
}

// scanEntry counts one entry, and reports whether it is a directory into which the survey must descend.
func (s *survey) scanEntry(e *entry) (isDir bool, err error) {
	if err := s.checkContext(e.rel); err != nil || s.skip[e.rel] {
		return false, err
	}
	if ok, err := s.openForScan(e); !ok || err != nil {
		return false, err
	}
	s.entries++
	if e.to != nil && e.to.kind() != e.from.kind() {
		if err := s.deleteOrCount(e.in.to, e.name, e.rel); err != nil {
			return false, err
		}
		e.closeTo()
	}
	s.recordClaim(e)
	s.addNeed(e)
	if e.from.isDir() {
		s.report(e.rel)
		return !s.isOtherMount(e), nil
	}
	s.need.Files++
	if e.from.isFile() {
		s.need.Bytes += e.from.size()
	}
	s.progress.Files = s.need.Files
	s.report(e.rel)
	return false, s.truncateEarly(e)
}

func (s *survey) scanSubdir(e *entry) error {
	defer e.close()
	if ok, err := s.openForScan(e); !ok || err != nil || !e.from.isDir() {
		return err
	}
	d := &dir{rel: e.rel, from: e.from}
	if e.to != nil && e.to.isDir() { // it may be of another kind, if the survey is dry
		d.to = e.to
	}
	return s.scanDir(d)
}

// deleteExtras deletes what is only in `to`, or counts it if the survey is dry. wanted are the names in `from`. Some
// file systems leave out names while others are deleted, so the directory is read again until nothing more was deleted.
func (s *survey) deleteExtras(d *dir, wanted *names) error {
	for again := d.to != nil; again; {
		again = false
		for name, err := range d.to.eachName() {
			if s.dry && errors.Is(err, unix.ENOENT) {
				break // somebody else has removed the directory
			}
			if err != nil {
				return s.targetError("list", d.rel, err)
			}
			if wanted.has(name) {
				continue
			}
			d.entriesChange = true
			before := s.done.Deleted
			if err := s.deleteOrCount(d.to, name, d.newEntry(name).rel); err != nil {
				return err
			}
			again = again || s.done.Deleted != before
		}
	}
	return nil
}

// deleteOrCount deletes an entry of `to`, or only counts it if the survey is dry.
func (s *survey) deleteOrCount(in *node, name, rel string) error {
	if s.dry {
		return s.countDeletion(in, name, rel)
	}
	_, err := s.remove(in, name, rel)
	return err
}

// countDeletion adds what deleting an entry of `to` would write.
func (s *survey) countDeletion(in *node, name, rel string) error {
	if err := s.checkContext(rel); err != nil || s.skip[rel] {
		return err
	}
	n, err := in.childIfAny(name)
	if n == nil || err != nil {
		return s.targetError("open", rel, err)
	}
	defer n.close()
	if n.isMountPoint(in) {
		return nil
	}
	s.need.Most += Block
	s.report(rel)
	if !n.isDir() {
		return nil
	}
	for below, err := range n.eachName() {
		if errors.Is(err, unix.ENOENT) { // somebody else has removed it, which does not matter while only counting
			break
		}
		if err != nil {
			return s.targetError("list", rel, err)
		}
		if err := s.countDeletion(n, below, rel+"/"+below); err != nil {
			return err
		}
	}
	return nil
}

// addNeed adds what making the entry equal would write. An entry that exists in `to` may have to be deleted and made
// anew, which is two changes of metadata.
func (s *survey) addNeed(e *entry) {
	if e.from.kind() == unix.S_IFSOCK || s.addLinkNeed(e) {
		return
	}
	switch {
	case e.to == nil:
		data := e.from.dataBytes(0)
		s.need.Least += data
		s.need.Most += data + Block
		e.in.entriesChange = true
	case e.from.isFile() && (s.mustSplit(e) || !s.contentUnchanged(e)):
		if e.from.size() > e.to.size() {
			s.need.Least += e.from.dataBytes(roundUp(e.to.size()))
		}
		s.need.Most += e.from.dataBytes(0) + 2*Block
		e.in.entriesChange = e.in.entriesChange || e.to.st.Nlink > 1
	case !sameStat(e.from, e.to) || s.mustSplit(e):
		s.need.Most += 2 * Block
		e.in.entriesChange = e.in.entriesChange || !e.from.isDir() && (!e.from.isFile() || e.to.st.Nlink > 1)
	}
}

// addLinkNeed adds what a further hard link of a file would write, if the survey has met another one of its links
// before. For the first link it adds nothing and returns false. In one of several dated trees every file may have its
// other links outside the tree; of each such file only one bit is kept.
func (s *survey) addLinkNeed(e *entry) bool {
	if e.from.isDir() || e.from.st.Nlink < 2 {
		return false
	}
	is := e.from.id()
	if s.metOnce.add(is) {
		return false
	}
	s.severalNames.add(is)
	met := max(1, s.namesMet[is]) + 1
	s.namesMet[is] = met
	if met == e.from.st.Nlink {
		delete(s.namesMet, is)
	}
	if !s.joinedInTo(e, met) {
		s.need.Most += 2 * Block
		e.in.entriesChange = true
	}
	return true
}

// joinedInTo reports whether all links of the file that were met so far are links of one file in `to`, too.
func (s *survey) joinedInTo(e *entry, met uint32) bool {
	if e.to == nil {
		return false
	}
	c := s.claims[e.to.id()]
	return c != nil && !c.split && c.names == met
}

// truncateEarly cuts off the end of a file that is much too long. A file with other hard links is left to the second
// pass, which knows whether the file may be written.
func (s *survey) truncateEarly(e *entry) error {
	if s.dry || e.to == nil || !e.from.isFile() || e.to.st.Nlink > 1 || e.to.isSealed() ||
		e.to.size()-e.from.size() < minEarlyTruncation {
		return nil
	}
	if err := s.gateMetadata(e); err != nil {
		return err
	}
	if err := s.unlock(e.to, e.rel); err != nil {
		return err
	}
	f, err := e.to.openContent(unix.O_WRONLY)
	if err != nil {
		return s.targetError("open", e.rel, err)
	}
	defer f.Close()
	s.truncatedEarly[e.to.id()] = true
	return s.targetError("shorten", e.rel, f.Truncate(e.from.size()))
}

// dataBytes returns how many bytes of a file are data from an offset on, rounded up to whole blocks. Holes do not
// count.
func (n *node) dataBytes(from int64) int64 {
	size := n.size()
	if !n.isFile() || from >= size {
		return 0
	}
	if int64(n.st.Blocks)*512 >= size {
		return roundUp(size - from)
	}
	f, err := n.openContent(unix.O_RDONLY)
	if err != nil {
		return roundUp(size - from)
	}
	defer f.Close()
	var sum int64
	for at := from; at < size; {
		start, end := nextExtent(f, at, size)
		sum += roundUp(end - start)
		at = end
	}
	return sum
}

func roundUp(n int64) int64 { return (n + Block - 1) / Block * Block }
