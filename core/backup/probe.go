package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// Lacks are what a file system, as it is mounted, cannot hold.
type Lacks []ability

// ability is something that a file system may be able to hold. try does it with the file at path, and is nil where it
// can be seen afterwards.
type ability struct {
	name   string
	needed bool // every tree has it
	super  bool // rsync's fake_super does without
	try    func(path string) error
}

var errNotHeld = errors.New("it is not there afterwards")

// abilities are tried in this order, each with a file of its own.
var abilities = []ability{
	{"owners", true, true, func(path string) error {
		owned := func(st *unix.Stat_t) bool { return st.Uid == 12345 && st.Gid == 54321 }
		return errors.Join(unix.Lchown(path, 12345, 54321), is(path, owned))
	}},
	{"permissions", true, true, func(path string) error {
		set := func(st *unix.Stat_t) bool { return st.Mode&0o7777 == 0o4710 }
		return errors.Join(unix.Chmod(path, 0o4710), is(path, set))
	}},
	{"symbolic links", true, false, func(path string) error {
		link := func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFLNK }
		return errors.Join(os.Symlink("target", path+"-link"), is(path+"-link", link))
	}},
	{"hard links", false, false, func(path string) error {
		linked := func(st *unix.Stat_t) bool { return st.Nlink == 2 }
		return errors.Join(os.Link(path, path+"-link"), is(path, linked))
	}},
	{"FIFOs and devices", false, true, func(path string) error { return unix.Mkfifo(path+"-fifo", 0o600) }},
	{"extended attributes", false, false, attribute("user.rewind", []byte("x"))},
	{"ACLs", false, true, attribute("system.posix_acl_access", probeACL())},
	{"capabilities", false, true, attribute("security.capability", probeCapability)},
	{"times to the nanosecond", false, false, func(path string) error {
		stamp := []unix.Timespec{{Sec: 981173106, Nsec: 123456789}, {Sec: 981173106, Nsec: 123456789}}
		exact := func(st *unix.Stat_t) bool { return st.Mtim.Nsec == 123456789 }
		return errors.Join(unix.UtimesNanoAt(unix.AT_FDCWD, path, stamp, 0), is(path, exact))
	}},
	{"all names", false, false, func(path string) error {
		for _, name := range []string{"-A", "-a", "-:?*\"<|", "-\xff\xfe", "-end. "} {
			file, err := os.OpenFile(path+name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			file.Close()
		}
		return nil
	}},
}

// Probe finds out by doing what a directory's file system can hold, in a directory of its own that is gone when it
// returns. The error is that of the file system where it cannot be written at all.
func Probe(dir string) (lacks Lacks, err error) {
	work, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	for i, a := range abilities {
		path := filepath.Join(work, string(rune('a'+i)))
		if err := writeOut(path); err != nil {
			return nil, err
		}
		err := a.try(path)
		if durable.Full(err) || errors.Is(err, unix.EROFS) {
			return nil, err
		}
		if err != nil {
			lacks = append(lacks, a)
		}
	}
	return lacks, nil
}

// writeOut makes a small file whose content is on the disk: room for it may be promised and not be there.
func writeOut(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString("rewind")
	return errors.Join(err, file.Sync(), file.Close())
}

func is(path string, fits func(*unix.Stat_t) bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || fits(&st) {
		return err
	}
	return errNotHeld
}

// attribute tries an extended attribute.
func attribute(name string, value []byte) func(path string) error {
	return func(path string) error {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			return err
		}
		have := make([]byte, 1<<10)
		n, err := unix.Getxattr(path, name, have)
		if err == nil && !bytes.Equal(have[:n], value) {
			err = errNotHeld
		}
		return err
	}
}

// probeCapability is cap_net_bind_service=p (include/uapi/linux/capability.h: VFS_CAP_REVISION_2).
var probeCapability = []byte{0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// probeACL gives one user more than his group (include/uapi/linux/posix_acl_xattr.h).
func probeACL() []byte {
	const none = 0xffffffff
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, none}, {2, 4, 12345}, {4, 4, none}, {0x10, 4, none}, {0x20, 0, none}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}

// WithFakeSuper are those that count where rsync keeps owners, modes and devices in extended attributes, which it needs
// then.
func (l Lacks) WithFakeSuper() Lacks {
	var left Lacks
	for _, a := range l {
		if a.name == "extended attributes" {
			a.needed = true
		}
		if !a.super {
			left = append(left, a)
		}
	}
	return left
}

// Verdict is unsupported where something is lacking that every tree has, else a warning about what is lacking.
func (l Lacks) Verdict(dir string) (warnings []string, err error) {
	if len(l) == 0 {
		return nil, nil
	}
	var names []string
	for _, a := range l {
		names = append(names, a.name)
	}
	what := "the file system that holds " + dir + typeOf(dir) + " cannot hold " + strings.Join(names, ", ")
	if slices.ContainsFunc(l, func(a ability) bool { return a.needed }) {
		return nil, fault.New(fault.Unsupported, "%s", what).
			WithHint("keep the backups on a file system of Linux (ext4, XFS, btrfs), mounted so that root may give files to " +
				"others; or use restic, which keeps all that in files of its own")
	}
	return []string{what + ": a backup fails where a file has that, or is stored without it"}, nil
}

// typeOf is the type of the file system that holds a directory, in brackets; "" where it cannot be found.
func typeOf(dir string) string {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return ""
	}
	m, err := filesystem.Holding(mounts, dir)
	if err != nil {
		return ""
	}
	return " (" + m.Type + ")"
}
