package tree

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags are inode flags, as chattr(1) sets them and statx(2) shows them. A file that has Immutable or AppendOnly cannot
// be overwritten, removed or linked, and in a directory that has Immutable nothing can be made or removed.
type Flags uint8

// Immutable, AppendOnly and NoDump are the flags that this package reads and sets. Other flags, such as A, C, P and S
// of chattr(1), are never changed: they stay as long as the file is not replaced.
const (
	Immutable Flags = 1 << iota
	AppendOnly
	NoDump
)

// knownFlags has for each flag its letter in chattr(1), its bit in statx(2), and its bit in the ioctl that sets it (see
// ioctl_iflags(2), and FS_*_FL in include/uapi/linux/fs.h).
var knownFlags = []struct {
	flag     Flags
	letter   byte
	statxBit uint64
	ioctlBit uint32
}{
	{Immutable, 'i', unix.STATX_ATTR_IMMUTABLE, 0x10},
	{AppendOnly, 'a', unix.STATX_ATTR_APPEND, 0x20},
	{NoDump, 'd', unix.STATX_ATTR_NODUMP, 0x40},
}

// String returns the letters of the flags, as lsattr(1) shows them.
func (f Flags) String() string {
	var b strings.Builder
	for _, k := range knownFlags {
		if f&k.flag != 0 {
			b.WriteByte(k.letter)
		}
	}
	return b.String()
}

// ParseFlags parses what String returns. The error is no fault.
func ParseFlags(letters string) (f Flags, err error) {
	for i := range len(letters) {
		known := false
		for _, k := range knownFlags {
			if k.letter == letters[i] {
				f, known = f|k.flag, true
			}
		}
		if !known {
			return 0, fmt.Errorf("%q are no inode flags", letters)
		}
	}
	return f, nil
}

// FlagsOf returns the flags in a result of statx(2).
func FlagsOf(st *unix.Statx_t) (f Flags) {
	for _, k := range knownFlags {
		if st.Attributes&k.statxBit != 0 {
			f |= k.flag
		}
	}
	return f
}

// flags returns the flags that the node had at the last look.
func (n *node) flags() Flags { return FlagsOf(&n.st) }

// setFlags sets the known flags of a file or directory to f, and leaves other flags as they are. Flags of anything else
// cannot be set (ENOTTY); to try that would open a device.
func (n *node) setFlags(f Flags) error {
	if !n.isDir() && !n.isFile() {
		return unix.ENOTTY
	}
	file, err := n.openContent(unix.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer file.Close()
	fd := int(file.Fd())
	have, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	want := have
	for _, k := range knownFlags {
		want &^= k.ioctlBit
		if f&k.flag != 0 {
			want |= k.ioctlBit
		}
	}
	if want == have {
		return nil
	}
	return errors.Join(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(want)), n.restat())
}

// pendingFlag holds the flags that an entry of `to` gets when nothing more is to be written. They are not set earlier,
// because an immutable file cannot be linked, and in an immutable directory nothing can be made.
type pendingFlag struct {
	rel   string
	id    id
	flags Flags
}

// unlock clears the flags of a file or directory of `to` that forbid changes, if Options.Unlock allows that. They are
// set again at the end, unless Options.Flags wants others.
func (j *job) unlock(n *node, rel string) error {
	forbidding := n.flags() & (Immutable | AppendOnly)
	if !j.opts.Unlock || forbidding == 0 {
		return nil
	}
	j.pendingFlags[n.id()] = pendingFlag{rel, n.id(), n.flags()}
	return j.targetError("take the flags "+forbidding.String()+" from", rel, n.setFlags(n.flags()&^forbidding))
}

// unlockDir is unlock for a directory in which something is about to be made or removed.
func (j *job) unlockDir(d *dir) error { return j.unlock(d.to, d.rel) }

// tellFlags calls Options.Flagged if the entry of `from` has flags.
func (j *job) tellFlags(e *entry) {
	if f := e.from.flags(); f != 0 && j.opts.Flagged != nil {
		j.opts.Flagged(e.rel, f)
	}
}

// adjustFlags is called first when the metadata of an entry is made equal. If Options.Flags wants other flags than the
// entry has, it clears those flags now and records the wanted ones, which are set at the end. It reports whether the
// flags differed.
func (j *job) adjustFlags(e *entry) (bool, error) {
	if e.from.isDir() {
		j.tellFlags(e)
	}
	had := e.to.flags()
	before, unlocked := j.pendingFlags[e.to.id()]
	if unlocked {
		had, before.rel = before.flags, e.rel // the name under which it was unlocked may be gone
		j.pendingFlags[e.to.id()] = before
	}
	if j.opts.Flags == nil || !e.to.isDir() && !e.to.isFile() {
		return false, nil
	}
	want := j.opts.Flags(e.rel)
	if want == had {
		return false, nil
	}
	delete(j.pendingFlags, e.to.id())
	if want != 0 {
		j.pendingFlags[e.to.id()] = pendingFlag{e.rel, e.to.id(), want}
	}
	if err := j.gateMetadata(e); err != nil {
		return false, err
	}
	return true, j.targetError("take the flags from", e.rel, e.to.setFlags(0))
}

// inheritFlags records the flags of a file that was replaced for the new file, unless Options.Flags decides about them.
func (j *job) inheritFlags(e *entry, f Flags) {
	if f != 0 && j.opts.Unlock && j.opts.Flags == nil && e.to != nil && e.to.isFile() {
		j.pendingFlags[e.to.id()] = pendingFlag{e.rel, e.to.id(), f}
	}
}

// setPendingFlags sets the recorded flags of all entries. It is the last step of a Sync.
func (j *job) setPendingFlags() error {
	for _, f := range j.pendingFlags {
		if err := j.gate(f.rel, Block); err != nil {
			return err
		}
		err := j.setPendingFlag(f)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
			j.warnings.add(j.targetPath(f.rel) + ": its file system cannot hold the flags " + f.flags.String())
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR): // the entry was removed
		case err != nil:
			return j.targetError("set the flags "+f.flags.String()+" of", f.rel, err)
		}
	}
	return nil
}

func (j *job) setPendingFlag(f pendingFlag) error {
	n, err := j.openPath(f.rel)
	if err != nil {
		return err
	}
	defer n.close()
	if n.id() != f.id {
		return nil // the entry was replaced
	}
	return n.setFlags(f.flags)
}
