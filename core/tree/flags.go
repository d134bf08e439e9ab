package tree

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags are inode flags as chattr(1) sets them and statx(2) shows them: a file that has Immutable or AppendOnly cannot
// be changed, removed or linked, and nothing can be made or removed in a directory that has Immutable.
type Flags uint8

// The flags that are kept. Others, such as those of chattr's A, C, P and S, a file keeps while it stays in its place.
const (
	Immutable Flags = 1 << iota
	AppendOnly
	NoDump
)

// kinds say how each flag is called, shown by statx(2), and set (ioctl_iflags(2); include/uapi/linux/fs.h: FS_*_FL).
var kinds = []struct {
	flag   Flags
	letter byte
	shown  uint64
	inode  uint32
}{
	{Immutable, 'i', unix.STATX_ATTR_IMMUTABLE, 0x10},
	{AppendOnly, 'a', unix.STATX_ATTR_APPEND, 0x20},
	{NoDump, 'd', unix.STATX_ATTR_NODUMP, 0x40},
}

// String is the flags' letters, as lsattr(1) shows them.
func (f Flags) String() string {
	var b strings.Builder
	for _, k := range kinds {
		if f&k.flag != 0 {
			b.WriteByte(k.letter)
		}
	}
	return b.String()
}

// ParseFlags reads what String returns.
func ParseFlags(letters string) (f Flags, err error) {
	for i := range len(letters) {
		known := false
		for _, k := range kinds {
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

// FlagsOf are the flags that statx(2) showed.
func FlagsOf(st *unix.Statx_t) (f Flags) {
	for _, k := range kinds {
		if st.Attributes&k.shown != 0 {
			f |= k.flag
		}
	}
	return f
}

// flags are those of a node when it was looked at last.
func (n *node) flags() Flags { return FlagsOf(&n.st) }

// setFlags gives a file or directory these flags, and leaves others as they are.
func (n *node) setFlags(f Flags) error {
	file, err := n.open(unix.O_RDONLY | unix.O_NONBLOCK)
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
	for _, k := range kinds {
		want &^= k.inode
		if f&k.flag != 0 {
			want |= k.inode
		}
	}
	if want == have {
		return nil
	}
	return errors.Join(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(want)), n.stat())
}

// flagged is an entry of `to` whose flags are to be set when nothing more is written: none that is immutable can be
// linked, and nothing can be made in a directory that is.
type flagged struct {
	rel   string
	id    id
	flags Flags
}

// unlock takes the flags from a file or directory of `to` that forbid to change it, if Options.Unlock allows that. They
// are set again at the end, unless other flags are wanted.
func (j *job) unlock(n *node, rel string) error {
	forbidding := n.flags() & (Immutable | AppendOnly)
	if !j.o.Unlock || forbidding == 0 {
		return nil
	}
	j.locked[n.id()] = flagged{rel, n.id(), n.flags()}
	return j.failed("take the flags "+forbidding.String()+" from", rel, n.setFlags(n.flags()&^forbidding))
}

// unlockDir is unlock for a directory in which something is made or removed.
func (j *job) unlockDir(d *dir) error { return j.unlock(d.to, d.rel) }

// keepFlags is called when an entry is equal but for its flags. It takes away what the entry is not to have, and has
// set at the end what it lacks. It reports whether the flags were to be changed.
func (j *job) keepFlags(e *entry) (bool, error) {
	if f := e.from.flags(); f != 0 && j.o.Flagged != nil {
		j.o.Flagged(e.rel, f)
	}
	had := e.to.flags()
	before, unlocked := j.locked[e.to.id()]
	if unlocked {
		had, before.rel = before.flags, e.rel // the name it had then may be gone
		j.locked[e.to.id()] = before
	}
	if j.o.Flags == nil || !e.to.isDir() && !e.to.isFile() {
		return false, nil
	}
	want := j.o.Flags(e.rel)
	if want == had {
		return false, nil
	}
	delete(j.locked, e.to.id())
	if want != 0 {
		j.locked[e.to.id()] = flagged{e.rel, e.to.id(), want}
	}
	if err := j.pay(e); err != nil {
		return false, err
	}
	return true, j.failed("take the flags from", e.rel, e.to.setFlags(0))
}

// carryFlags has an entry that was made anew in the place of another keep the flags of that one, where no others are
// known.
func (j *job) carryFlags(e *entry, f Flags) {
	if f != 0 && j.o.Unlock && j.o.Flags == nil && e.to != nil {
		j.locked[e.to.id()] = flagged{e.rel, e.to.id(), f}
	}
}

// lock sets the flags that entries are to have, when nothing more is to be written.
func (j *job) lock() error {
	for _, f := range j.locked {
		if err := j.gate(f.rel, Block); err != nil {
			return err
		}
		err := j.lockOne(f)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
			j.warnings.add(j.target(f.rel) + ": its file system cannot hold the flags " + f.flags.String())
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR): // it was removed
		case err != nil:
			return j.failed("set the flags "+f.flags.String()+" of", f.rel, err)
		}
	}
	return nil
}

func (j *job) lockOne(f flagged) error {
	n, err := j.reach(f.rel)
	if err != nil {
		return err
	}
	defer n.close()
	if n.id() != f.id {
		return nil // another has its name
	}
	return n.setFlags(f.flags)
}
