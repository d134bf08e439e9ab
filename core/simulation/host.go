package simulation

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// mount is a mount of a volume.
type mount struct {
	id       int
	uuid     string // of the volume
	point    string
	readOnly bool
}

// opened is a device that something other than a mount holds open, such as a process.
type opened struct {
	uuid string
	by   string // a service, or who else
}

// kernel is what the kernel of the machine knows of mounts and devices, beside device-mapper.
type kernel struct {
	m         *machine
	mu        sync.Mutex
	lastID    int
	mounts    []mount
	opened    []opened
	protected map[filesystem.Dev]bool // the devices that are write-protected
}

// forget forgets everything, as at a power cut.
func (k *kernel) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mounts, k.opened, k.protected = nil, nil, map[filesystem.Dev]bool{}
}

// count tells device-mapper how often a volume is open. The caller holds k.mu.
func (k *kernel) count(uuid string) {
	n := 0
	for _, m := range k.mounts {
		if m.uuid == uuid {
			n++
		}
	}
	for _, o := range k.opened {
		if o.uuid == uuid {
			n++
		}
	}
	for _, v := range k.m.each() {
		if v.UUID == uuid {
			k.m.fake.SetOpen(v.FullName(), n)
		}
	}
}

// open has something open a volume.
func (k *kernel) open(v *lvm.Volume, by string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened = append(k.opened, opened{v.UUID, by})
	k.count(v.UUID)
}

// close has something close every volume that it has open.
func (k *kernel) close(by string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	closes := func(o opened) bool { return o.by == by }
	before := slices.Clone(k.opened)
	k.opened = slices.DeleteFunc(k.opened, closes)
	for _, o := range before {
		if closes(o) {
			k.count(o.uuid)
		}
	}
}

// mount mounts a volume. A write-protected one is mounted read-only, as mount(8) does.
func (k *kernel) mount(name, point string, readOnly bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, found := k.m.volumeNamed(name)
	switch {
	case !found || !v.Active:
		return fault.New(fault.MountFailed, "mount: special device /dev/%s does not exist", name)
	case v.Suspended:
		return fault.New(fault.MountFailed, "mount: %s: blockdev is frozen", name)
	case k.isMountPoint(point):
		return fault.New(fault.MountFailed, "mount: %s: already mounted", point)
	}
	k.lastID++
	k.mounts = append(k.mounts, mount{k.lastID, v.UUID, point, readOnly || k.protected[devOf(&v)]})
	k.count(v.UUID)
	return nil
}

// isMountPoint reports whether something is mounted at a point. The caller holds k.mu.
func (k *kernel) isMountPoint(point string) bool {
	return slices.ContainsFunc(k.mounts, func(m mount) bool { return m.point == point })
}

// at returns the UUID of the volume that is mounted at a point; empty: none.
func (k *kernel) at(point string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.mounts {
		if m.point == point {
			return m.uuid
		}
	}
	return ""
}

func (k *kernel) unmount(point string) {
	uuid := k.at(point)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mounts = slices.DeleteFunc(k.mounts, func(m mount) bool { return m.point == point })
	k.count(uuid)
}

// table returns the mounts as the kernel shows them. The root file system is on a disk of its own.
func (k *kernel) table() []filesystem.Mount {
	all := []filesystem.Mount{{ID: 1, Dev: filesystem.Dev{Major: 8, Minor: 1}, Root: "/", Point: "/", Type: "ext4"}}
	volumes := k.m.each()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.mounts {
		i := slices.IndexFunc(volumes, func(v lvm.Volume) bool { return v.UUID == m.uuid })
		if i < 0 {
			continue
		}
		options := "rw"
		if m.readOnly {
			options = "ro"
		}
		all = append(all, filesystem.Mount{ID: m.id + 1, Parent: 1, Dev: devOf(&volumes[i]), Root: "/", Point: m.point,
			Type: "ext4", Source: volumes[i].Path, Options: options})
	}
	return all
}

// host is the server as a process asks it and changes it.
type host struct{ p *process }

func (h host) kernel() *kernel { return h.p.m.kernel }

func (h host) Mounts() ([]filesystem.Mount, error) {
	h.p.exitIfDead()
	return h.kernel().table(), nil
}

// Fstab has no entries: systemd's mount units stand for them.
func (host) Fstab() ([]filesystem.FstabEntry, error) { return nil, nil }

func (h host) Names(dev filesystem.Dev) []string {
	for _, v := range h.p.m.each() {
		if v.Active && devOf(&v) == dev {
			return []string{v.Path, "/dev/mapper/" + v.DMName}
		}
	}
	return nil
}

func (h host) Device(path string) (filesystem.Dev, error) {
	if v, found := h.p.m.volumeNamed(strings.TrimPrefix(path, "/dev/")); found && v.Active {
		return devOf(&v), nil
	}
	return filesystem.Dev{}, &os.PathError{Op: "stat", Path: path, Err: os.ErrNotExist}
}

func (h host) Open(path string) (io.Closer, error) {
	err := h.p.do("open "+path, func() error {
		v, found := h.p.m.volumeNamed(strings.TrimPrefix(path, "/dev/"))
		if !found || !v.Active {
			return os.ErrNotExist
		}
		h.kernel().open(&v, ownName)
		return nil
	}, nil)
	return closer{h}, err
}

// ownName is what a process of Rewind opens devices as.
const ownName = "rewind"

type closer struct{ host }

func (c closer) Close() error {
	c.kernel().close(ownName)
	return nil
}

// Holders returns the processes of services, and others, that have one of the devices open or work on a mount of it.
func (h host) Holders(
	_ context.Context, devs []filesystem.Dev, _ []filesystem.Mount,
) ([]filesystem.Holder, error) {
	h.p.exitIfDead()
	var found []filesystem.Holder
	for _, v := range h.p.m.each() {
		if !v.Active || !slices.Contains(devs, devOf(&v)) {
			continue
		}
		for _, s := range h.p.m.usersOf(v.UUID) {
			found = append(found, filesystem.Holder{Kind: "process", How: "fd", Path: v.Path,
				PID: h.p.m.story.Server.pid(s), Command: s, Unit: s, Dev: devOf(&v)})
		}
		for _, o := range h.kernel().opened {
			if o.uuid == v.UUID && o.by == administratorName {
				found = append(found, filesystem.Holder{Kind: "process", How: "device", Path: v.Path, PID: administratorPID,
					Command: "dd", Dev: devOf(&v)})
			}
		}
	}
	return found, nil
}

// An administrator's process that has a device open.
const (
	administratorName = "an administrator"
	administratorPID  = 1 << 21
)

func (h host) WriteOut(context.Context, []string, time.Duration) (late []string) {
	_ = h.p.do("write out", func() error { return nil }, nil)
	return nil
}

func (h host) Mount(_ context.Context, _ command.Runner, spec filesystem.MountSpec) error {
	v, _ := h.p.m.volumeNamed(strings.TrimPrefix(spec.Source, "/dev/"))
	time.Sleep(h.p.m.turn(v.DMName)) // mounts that are made at the same time always come in the same order
	return mountFault(h.p.do("mount "+spec.Point, func() error {
		readOnly := slices.Contains(spec.Options, "ro")
		defer h.p.m.noteMount(spec.Point)
		return h.kernel().mount(strings.TrimPrefix(spec.Source, "/dev/"), spec.Point, readOnly)
	}, nil))
}

func (host) Reflag(filesystem.MountSpec) error { return nil }

func (h host) UnmountOf(_ context.Context, point string, devs ...filesystem.Dev) error {
	i := slices.IndexFunc(h.kernel().table(), func(m filesystem.Mount) bool { return m.Point == point })
	if i < 0 || !slices.Contains(devs, h.kernel().table()[i].Dev) {
		return nil
	}
	return mountFault(h.p.do("unmount "+point, func() error {
		uuid := h.kernel().at(point)
		if users := h.p.m.usersOf(uuid); len(users) > 0 {
			return fault.New(fault.Busy, "umount %s: %s uses it", point, users[0])
		}
		h.kernel().unmount(point)
		h.p.m.noteMount(point)
		return nil
	}, nil))
}

func (h host) WriteProtected(dev filesystem.Dev) (bool, error) {
	h.p.exitIfDead()
	if len(h.Names(dev)) == 0 {
		return false, fault.New(fault.NotFound, "block device %s", dev)
	}
	return h.kernel().protected[dev], nil
}

func (h host) WriteProtect(dev filesystem.Dev, on bool) error {
	names := h.Names(dev)
	if len(names) == 0 {
		return fault.New(fault.NotFound, "block device %s", dev)
	}
	return mountFault(h.p.do("write-protect "+names[0], func() error {
		h.kernel().protected[dev] = on
		return nil
	}, nil))
}

// mountFault returns a failure of the simulation as the fault that a mount or an unmount returns.
func mountFault(err error) error {
	if err == errInjected || err == unix.ENOSPC {
		return fault.New(fault.MountFailed, "the kernel refuses: %w", err)
	}
	return err
}
