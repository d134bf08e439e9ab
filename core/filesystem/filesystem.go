// Package filesystem knows what is mounted where and on which device, freezes
// file systems for an instant, and finds whatever holds one open.
//
// Its promises: a file system it froze is thawed within the limit as long as
// the process lives, and by ThawMount after its death; a directory that is no
// mount point is never frozen; nothing is ever unmounted lazily.
package filesystem

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// Dev is the number of a block device, as in stat(2)'s st_dev of the files on it.
type Dev struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// NewDev makes a Dev of LVM's and device-mapper's numbers. Those of a volume that is
// not active are -1, and no device's.
func NewDev(major, minor int) Dev { return Dev{uint32(major), uint32(minor)} }

func devOf(n uint64) Dev { return Dev{unix.Major(n), unix.Minor(n)} }

// Mount is one line of a mountinfo file, unescaped (proc_pid_mountinfo(5)).
type Mount struct {
	ID       int    `json:"id"`
	Parent   int    `json:"parent"`
	Dev      Dev    `json:"dev"`
	Root     string `json:"root"`     // the directory of the file system that is mounted; "/" unless it is a bind mount or a subvolume
	Point    string `json:"point"`    // where, seen from the process's root
	Type     string `json:"type"`     // file system, such as xfs
	Source   string `json:"source"`   // what mount(2) was given; a name, not a proof
	Options  string `json:"options"`  // of this mount, by comma
	Super    string `json:"super"`    // of the file system, by comma
	Optional string `json:"optional"` // propagation, such as "shared:1 master:2", by space
}

// Mounts returns what is mounted in the namespace of the caller.
func Mounts() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fault.New(fault.Internal, "read the mount table: %w", err)
	}
	return mountsOf(infos), nil
}

func parseMounts(table []byte) ([]Mount, error) {
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(table), nil)
	if err != nil {
		return nil, err
	}
	return mountsOf(infos), nil
}

func mountsOf(infos []*mountinfo.Info) []Mount {
	mounts := make([]Mount, 0, len(infos))
	for _, i := range infos {
		mounts = append(mounts, Mount{
			ID: i.ID, Parent: i.Parent, Dev: Dev{uint32(i.Major), uint32(i.Minor)},
			Root: i.Root, Point: i.Mountpoint, Type: i.FSType, Source: i.Source,
			Options: i.Options, Super: i.VFSOptions, Optional: i.Optional,
		})
	}
	return mounts
}

// Autofs is the type of a mount that waits for a first look to have something mounted there: an automount point.
const Autofs = "autofs"

// Automounter returns the process that mounts something at an automount point when somebody looks there: 1 is systemd.
// False for every other mount.
func (m Mount) Automounter() (pid int, ok bool) {
	for _, option := range splitOptions(m.Super) {
		if group, is := strings.CutPrefix(option, "pgrp="); is && m.Type == Autofs {
			pid, err := strconv.Atoi(group)
			return pid, err == nil
		}
	}
	return 0, false
}

// On returns the mounts of a device, bind mounts included, in the table's order.
func On(mounts []Mount, dev Dev) []Mount {
	var on []Mount
	for _, m := range mounts {
		if m.Dev == dev {
			on = append(on, m)
		}
	}
	return on
}

// At returns the mount at exactly path: of several on top of each other, the
// one that is seen. The table's order does not tell which that is, so it is the
// one that is no other's parent there.
func At(mounts []Mount, path string) (Mount, bool) {
	var there []Mount
	for _, m := range mounts {
		if m.Point == path {
			there = append(there, m)
		}
	}
	for _, m := range slices.Backward(there) {
		covered := slices.ContainsFunc(there, func(above Mount) bool { return above.Parent == m.ID && above.ID != m.ID })
		if !covered {
			return m, true
		}
	}
	return Mount{}, false
}

// Holding returns which of the mounts path is on; what does not exist yet is on
// the mount of its nearest existing directory. Links are followed. The kernel is
// asked first, because mounts may hide each other (statx(2), STATX_MNT_ID).
// not_found if none of the mounts holds it.
func Holding(mounts []Mount, path string) (Mount, error) {
	real, rest := resolve(path)
	var st unix.Statx_t
	flags := unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC // must neither mount nor wait for a server
	err := unix.Statx(unix.AT_FDCWD, real, flags, unix.STATX_MNT_ID, &st)
	for _, m := range mounts {
		same := uint64(m.ID) == st.Mnt_id && m.Dev == Dev{st.Dev_major, st.Dev_minor} && under(real, m.Point)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && same {
			return m, nil
		}
	}
	if m, ok := holding(mounts, filepath.Join(real, rest)); ok {
		return m, nil
	}
	return Mount{}, fault.New(fault.NotFound, "no mount holds %s", path)
}

// holding is Holding by the names alone.
func holding(mounts []Mount, path string) (Mount, bool) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if m, ok := At(mounts, dir); ok {
			return m, true
		}
		if dir == "/" || dir == "." {
			return Mount{}, false
		}
	}
}

// resolve returns the part of path that exists, without symbolic links, and
// the rest of it.
func resolve(path string) (real, rest string) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return real, rest
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir, rest
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// InUse returns the devices that a running server cannot do without, each with
// the path that is why: the root, /etc/lvm (LVM writes copies of its metadata
// there), and the paths given.
func InUse(mounts []Mount, paths ...string) map[Dev]string {
	devices := make(map[Dev]string)
	for _, path := range append([]string{"/", "/etc/lvm"}, paths...) {
		real, rest := resolve(path)
		m, ok := holding(mounts, filepath.Join(real, rest))
		if _, known := devices[m.Dev]; ok && !known {
			devices[m.Dev] = path
		}
	}
	return devices
}

// under tells whether path is dir or below it.
func under(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// statDev returns the device that holds the file that path names, and the
// device it is, if it is a block device.
func statDev(path string) (on, is Dev, err error) {
	var st unix.Stat_t
	for {
		err = unix.Stat(path, &st)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return Dev{}, Dev{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		is = devOf(st.Rdev)
	}
	return devOf(st.Dev), is, nil
}
