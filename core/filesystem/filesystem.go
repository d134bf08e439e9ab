// Package filesystem reads which devices are mounted where, mounts and unmounts, freezes file systems for an instant,
// and finds whatever holds a file system open.
//
// It guarantees: a file system that it froze is thawed within the limit as long as the process lives, and can be thawed
// by ThawMount after the process has died; a directory that is not a mount point is never frozen; nothing is ever
// unmounted lazily.
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
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Dev is the number of a block device, as in st_dev (stat(2)) of the files on it.
type Dev struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// NewDev returns the Dev for numbers that LVM or device-mapper printed. For a volume that is not active they are -1,
// which gives a Dev that no device has.
func NewDev(major, minor int) Dev { return Dev{uint32(major), uint32(minor)} }

// DevOf returns the device with a number of stat(2).
func DevOf(n uint64) Dev { return Dev{unix.Major(n), unix.Minor(n)} }

// Mount is one line of a mountinfo file, unescaped (proc_pid_mountinfo(5)).
type Mount struct {
	ID       int    `json:"id"`
	Parent   int    `json:"parent"`
	Dev      Dev    `json:"dev"`
	Root     string `json:"root"`     // the mounted directory of the file system; "/" if it is no bind mount or subvolume
	Point    string `json:"point"`    // the mount point, seen from the process's root
	Type     string `json:"type"`     // the type of the file system, such as xfs
	Source   string `json:"source"`   // the source given to mount(2); it need not name the device
	Options  string `json:"options"`  // options of this mount, separated by commas
	Super    string `json:"super"`    // options of the file system, separated by commas
	Optional string `json:"optional"` // propagation, such as "shared:1 master:2", separated by blanks
}

// Mounts returns the mounts in the caller's mount namespace. Fault: internal.
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

// Autofs is the type of the mount at an automount point, where something is mounted as soon as a program accesses it.
const Autofs = "autofs"

// Automounter returns the process that mounts something at an automount point when a program accesses it; 1 is systemd.
// It returns false for any other kind of mount.
func (m Mount) Automounter() (pid int, ok bool) {
	for _, option := range splitOptions(m.Super) {
		if group, isGroup := strings.CutPrefix(option, "pgrp="); isGroup && m.Type == Autofs {
			pid, err := strconv.Atoi(group)
			return pid, err == nil
		}
	}
	return 0, false
}

// On returns the mounts of a device, bind mounts included, in the order of the table.
func On(mounts []Mount, dev Dev) []Mount {
	var on []Mount
	for _, m := range mounts {
		if m.Dev == dev {
			on = append(on, m)
		}
	}
	return on
}

// At returns the mount at exactly this path. If several are mounted on top of each other, it returns the topmost, which
// is the one that programs see. The order of the table does not tell which that is: it is the mount that is not the
// parent of another mount at the path.
func At(mounts []Mount, path string) (Mount, bool) {
	var atPath []Mount
	for _, m := range mounts {
		if m.Point == path {
			atPath = append(atPath, m)
		}
	}
	for _, m := range slices.Backward(atPath) {
		covered := slices.ContainsFunc(atPath, func(above Mount) bool { return above.Parent == m.ID && above.ID != m.ID })
		if !covered {
			return m, true
		}
	}
	return Mount{}, false
}

// Cover returns the mount that hides m: one on top of it at the same mount point, or one at a directory above that m is
// not below. It returns false if m is reached by its path.
func Cover(mounts []Mount, m Mount) (Mount, bool) {
	if top, ok := At(mounts, m.Point); ok && top.ID != m.ID {
		return top, true
	}
	above := map[int]bool{}
	for id := m.Parent; !above[id]; {
		above[id] = true
		if parent, ok := byID(mounts, id); ok {
			id = parent.Parent
		}
	}
	for dir := m.Point; dir != "/" && dir != "."; {
		dir = filepath.Dir(dir)
		if top, ok := At(mounts, dir); ok && !above[top.ID] {
			return top, true
		}
	}
	return Mount{}, false
}

// CoverFault is the fault of a mount at point that cannot be unmounted because cover hides it.
func CoverFault(point string, cover Mount) error {
	return fault.New(fault.Busy, "%s cannot be unmounted: %s is mounted over it, on %s", point, cover.Source, cover.Point).
		WithHint("umount %s", cover.Point)
}

// Holding returns the mount that holds path. If path does not exist, this is the mount that holds its nearest existing
// parent directory. Symbolic links are followed. The kernel is asked first, because mounts may hide each other
// (statx(2), STATX_MNT_ID). Fault: not_found if none of the mounts holds path.
func Holding(mounts []Mount, path string) (Mount, error) {
	existing, missing := resolve(path)
	var st unix.Statx_t
	// The call must neither trigger an automount nor wait for a file server.
	flags := unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, existing, flags, unix.STATX_MNT_ID, &st)
	for _, m := range mounts {
		same := uint64(m.ID) == st.Mnt_id && m.Dev == Dev{st.Dev_major, st.Dev_minor} && isUnder(existing, m.Point)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && same {
			return m, nil
		}
	}
	if m, ok := holdingByName(mounts, filepath.Join(existing, missing)); ok {
		return m, nil
	}
	return Mount{}, fault.New(fault.NotFound, "no mount holds %s", path)
}

// holdingByName is Holding without asking the kernel: it goes by the paths of the mount points.
func holdingByName(mounts []Mount, path string) (Mount, bool) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if m, ok := At(mounts, dir); ok {
			return m, true
		}
		if dir == "/" || dir == "." {
			return Mount{}, false
		}
	}
}

// Resolve returns an absolute path as the mount table has it: without symbolic links, and without a slash at its end.
// The part of it that does not exist yet stays as it is.
func Resolve(path string) string { return filepath.Join(resolve(path)) }

// resolve splits path: it returns the part that exists, with symbolic links resolved, and the part that does not exist.
func resolve(path string) (existing, missing string) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		existing, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return existing, missing
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir, missing
		}
		missing = filepath.Join(filepath.Base(dir), missing)
	}
}

// EssentialDevices returns the devices that a running server needs, each with the path that is the reason: the root
// directory, /etc/lvm (LVM writes copies of its metadata there), or one of the given paths.
func EssentialDevices(mounts []Mount, paths ...string) map[Dev]string {
	devices := make(map[Dev]string)
	for _, path := range append([]string{"/", "/etc/lvm"}, paths...) {
		m, ok := holdingByName(mounts, Resolve(path))
		if _, known := devices[m.Dev]; ok && !known {
			devices[m.Dev] = path
		}
	}
	return devices
}

// isUnder reports whether path is dir or is below it.
func isUnder(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// statDev returns the device that holds the file at path and, if that file is a block device, the number of that
// device.
func statDev(path string) (on, node Dev, err error) {
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
		node = DevOf(st.Rdev)
	}
	return DevOf(st.Dev), node, nil
}

// BlockDevice returns the number of the block device at path, following symbolic links. Faults: not_found if there is
// nothing at path, bad_arguments if that is no block device.
func BlockDevice(path string) (Dev, error) {
	_, node, err := statDev(path)
	if err == nil && node == (Dev{}) {
		err = fault.New(fault.BadArguments, "%s is no block device", path)
	}
	return node, err
}
