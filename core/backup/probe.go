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

// MissingAbilities lists what a file system, as it is mounted, cannot hold.
type MissingAbilities []ability

// ability is something that a file system may be able to hold.
type ability struct {
	name      string
	essential bool // every tree needs it
	fakeSuper bool // rsync with fake_super does not need it

	// try uses the ability on the file at path. It returns nil if the result is visible afterwards.
	try func(path string) error
}

var errNotKept = errors.New("it is not there afterwards")

// abilities lists what Probe tries, in this order, each with a file of its own.
var abilities = []ability{
	{"owners", true, true, func(path string) error {
		owned := func(st *unix.Stat_t) bool { return st.Uid == 12345 && st.Gid == 54321 }
		return errors.Join(unix.Lchown(path, 12345, 54321), checkStat(path, owned))
	}},
	{"permissions", true, true, func(path string) error {
		set := func(st *unix.Stat_t) bool { return st.Mode&0o7777 == 0o4710 }
		return errors.Join(unix.Chmod(path, 0o4710), checkStat(path, set))
	}},
	{"symbolic links", true, false, func(path string) error {
		link := func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFLNK }
		return errors.Join(os.Symlink("target", path+"-link"), checkStat(path+"-link", link))
	}},
	{"hard links", false, false, func(path string) error {
		linked := func(st *unix.Stat_t) bool { return st.Nlink == 2 }
		return errors.Join(os.Link(path, path+"-link"), checkStat(path, linked))
	}},
	{"FIFOs and devices", false, true, func(path string) error { return unix.Mkfifo(path+"-fifo", 0o600) }},
	{"extended attributes", false, false, tryXattr("user.rewind", []byte("x"))},
	{"ACLs", false, true, tryXattr("system.posix_acl_access", probeACL())},
	{"capabilities", false, true, tryXattr("security.capability", probeCapability)},
	{"times to the nanosecond", false, false, func(path string) error {
		stamp := []unix.Timespec{{Sec: 981173106, Nsec: 123456789}, {Sec: 981173106, Nsec: 123456789}}
		exact := func(st *unix.Stat_t) bool { return st.Mtim.Nsec == 123456789 }
		return errors.Join(unix.UtimesNanoAt(unix.AT_FDCWD, path, stamp, 0), checkStat(path, exact))
	}},
	// Where they are the same, the second of two files would overwrite the first.
	{"names that differ only in upper and lower case", true, false, tryNames("-A", "-a")},
	{"all names", false, false, tryNames("-:?*\"<|", "-\xff\xfe", "-end. ")},
}

// Probe finds out by trying what the file system of dir cannot hold. It works in a new directory below dir and removes
// that. It returns the error of the file system if that is full, read-only or cannot be written at all.
func Probe(dir string) (lacks MissingAbilities, err error) {
	probeDir, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probeDir)) }()
	for i, a := range abilities {
		path := filepath.Join(probeDir, string(rune('a'+i)))
		if err := writeSynced(path); err != nil {
			return nil, err
		}
		err := a.try(path)
		if durable.IsFull(err) || errors.Is(err, unix.EROFS) {
			return nil, err
		}
		if err != nil {
			lacks = append(lacks, a)
		}
	}
	return lacks, nil
}

// writeSynced makes a small file and syncs it. Without the sync a file system may accept data for which it has no room.
func writeSynced(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString("rewind")
	return errors.Join(err, file.Sync(), file.Close())
}

// checkStat returns errNotKept if the attributes of the file at path do not match.
func checkStat(path string, matches func(*unix.Stat_t) bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || matches(&st) {
		return err
	}
	return errNotKept
}

// tryNames returns a function that makes a file for each ending of a name.
func tryNames(endings ...string) func(path string) error {
	return func(path string) error {
		for _, ending := range endings {
			file, err := os.OpenFile(path+ending, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			file.Close()
		}
		return nil
	}
}

// tryXattr returns a function that sets an extended attribute and reads it again.
func tryXattr(name string, value []byte) func(path string) error {
	return func(path string) error {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			return err
		}
		got := make([]byte, 1<<10)
		n, err := unix.Getxattr(path, name, got)
		if err == nil && !bytes.Equal(got[:n], value) {
			err = errNotKept
		}
		return err
	}
}

// probeCapability is the value of security.capability for cap_net_bind_service=p (include/uapi/linux/capability.h:
// VFS_CAP_REVISION_2).
var probeCapability = []byte{0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// probeACL is the value of system.posix_acl_access for an ACL that lets one named user read
// (include/uapi/linux/posix_acl_xattr.h).
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

// WithFakeSuper returns what matters for rsync with fake_super. rsync then keeps owners, modes and devices in extended
// attributes. So the file system need not hold owners, modes and devices, and must hold extended attributes.
func (l MissingAbilities) WithFakeSuper() MissingAbilities {
	var left MissingAbilities
	for _, a := range l {
		if a.name == "extended attributes" {
			a.essential = true
		}
		if !a.fakeSuper {
			left = append(left, a)
		}
	}
	return left
}

// Verdict returns the fault unsupported if something is lacking that every tree needs, or else a warning that names
// what is lacking, and one if Flush does nothing there. dir is the directory that was probed.
func (l MissingAbilities) Verdict(dir string) (warnings []string, err error) {
	fsType := typeOf(dir)
	warnings = unflushedWarning(dir, fsType)
	if len(l) == 0 {
		return warnings, nil
	}
	var names []string
	for _, a := range l {
		names = append(names, a.name)
	}
	what := "the file system that holds " + dir
	if fsType != "" {
		what += " (" + fsType + ")"
	}
	what += " cannot hold " + strings.Join(names, ", ")
	if slices.ContainsFunc(l, func(a ability) bool { return a.essential }) {
		return nil, fault.New(fault.Unsupported, "%s", what).
			WithHint("keep the backups on a file system of Linux (ext4, XFS, btrfs), mounted so that root may give files to " +
				"others; or use restic, which keeps all that in files of its own")
	}
	return append(warnings, what+": a backup fails where a file has that, or is stored without it"), nil
}

// typeOf returns the type of the file system of a directory, or "" if it cannot be found.
func typeOf(dir string) string {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return ""
	}
	m, err := filesystem.Holding(mounts, dir)
	if err != nil {
		return ""
	}
	return m.Type
}
