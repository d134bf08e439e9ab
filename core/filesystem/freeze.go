package filesystem

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// Target is a file system to freeze: the mount point and the device that must
// be mounted there.
type Target struct {
	Point string `json:"point"`
	Dev   Dev    `json:"dev"`
}

// The ioctls of linux/fs.h, which x/sys/unix does not name.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// Frozen is a number of frozen file systems. They are thawed by Thaw, and at the
// latest when the limit or the context ends.
type Frozen struct {
	holds []*hold
	over  chan struct{} // closed by Thaw: nothing is left to watch
	once  sync.Once
}

// Freeze stops all writes to the file systems of the targets: all of them, or
// it returns an error and none. It returns when every one is frozen. Each stays
// so until it is thawed, at most for limit, and no longer than ctx: that it came
// to that is an error of Thaw.
//
// Dirty pages are written out before the first one is frozen, so that writers
// wait for little more than the freeze itself; that may take limit once more.
// Targets on one device are frozen once.
//
// Errors: not_found and unsupported if a target is not the mount point of its
// device, busy if another program froze it, freeze_timeout at the limit; that
// one is an ErrFreezing too if a file system may still freeze.
func Freeze(ctx context.Context, targets []Target, limit time.Duration) (*Frozen, error) {
	holds, err := openAll(targets)
	if err != nil {
		return nil, err
	}
	return freezeAll(ctx, holds, limit)
}

func freezeAll(ctx context.Context, holds []*hold, limit time.Duration) (*Frozen, error) {
	f := &Frozen{holds: holds, over: make(chan struct{})}
	if err := f.each(ctx, limit, "written out", (*hold).sync); err != nil {
		return nil, fault.All(err, f.Thaw())
	}
	deadline := time.Now().Add(limit)
	if err := f.each(ctx, limit, "frozen", (*hold).freeze); err != nil {
		return nil, fault.All(err, f.Thaw())
	}
	go f.watch(ctx, time.Until(deadline))
	return f, nil
}

// openAll opens every target, or none.
func openAll(targets []Target) ([]*hold, error) {
	var holds []*hold
	var errs []error
	byDev := make(map[Dev]*hold)
	for _, t := range targets {
		dir, err := openMountPoint(t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if h := byDev[t.Dev]; h != nil {
			h.points = append(h.points, t.Point)
			_ = dir.Close() // opened to prove the target only
			continue
		}
		h := &hold{points: []string{t.Point}, dir: dir, mark: markOf(marks, t.Dev)}
		byDev[t.Dev] = h
		holds = append(holds, h)
	}
	if err := fault.All(errs...); err != nil {
		for _, h := range holds {
			_ = h.thaw()
		}
		return nil, err
	}
	return holds, nil
}

// openMountPoint opens a directory and proves by the descriptor, which no
// later mount can change, that it is the root of a mount of the device.
// FIFREEZE on any other directory would freeze the file system that holds it.
func openMountPoint(t Target) (*os.File, error) {
	fd, err := unix.Open(t.Point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.New(fault.NotFound, "open mount point %s: %w", t.Point, err)
	}
	dir := os.NewFile(uintptr(fd), t.Point)
	if err := isMountOf(fd, t); err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

func isMountOf(fd int, t Target) error {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st); err != nil {
		return fault.New(fault.Unsupported, "%s: statx: %w", t.Point, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return fault.New(fault.Unsupported, "the kernel cannot tell whether %s is a mount point", t.Point).
			WithHint("freezing needs Linux 5.8 or later")
	}
	if on := (Dev{st.Dev_major, st.Dev_minor}); on != t.Dev {
		return fault.New(fault.NotFound, "%s is on device %s, not on %s", t.Point, on, t.Dev)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return fault.New(fault.NotFound, "%s is not a mount point", t.Point)
	}
	return nil
}

// each does one step on every file system at the same time. At the limit or at
// the end of ctx it returns without those that are still at it.
func (f *Frozen) each(ctx context.Context, limit time.Duration, done string, step func(*hold) error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	results := make(chan error, len(f.holds))
	for _, h := range f.holds {
		go func() { results <- step(h) }()
	}
	var errs []error
	for range f.holds {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-timer.C:
			return fault.New(fault.FreezeTimeout, "%s could not be %s within %v; writes go on again", f.points(), done, limit).
				WithHint("the disks are busy: try again at a quieter time, or raise freeze_timeout")
		case <-ctx.Done():
			return fault.New(fault.Of(ctx.Err()).Code, "freezing %s: %w", f.points(), ctx.Err())
		}
	}
	return fault.All(errs...)
}

func (f *Frozen) points() string {
	var points []string
	for _, h := range f.holds {
		points = append(points, h.points...)
	}
	return strings.Join(points, ", ")
}

// watch thaws everything when the limit or ctx ends first.
func (f *Frozen) watch(ctx context.Context, left time.Duration) {
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-f.over:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	for _, h := range f.holds {
		h.expire()
	}
}

// Thaw thaws every file system that is still frozen, and every one whose freeze
// comes back later, which is an ErrFreezing. It may be called at any time, and
// again. It is an error (freeze_timeout) if the limit or another program thawed
// one before, because the instant is lost.
func (f *Frozen) Thaw() error {
	f.once.Do(func() { close(f.over) })
	errs := make([]error, 0, len(f.holds))
	for _, h := range f.holds {
		errs = append(errs, h.thaw())
	}
	return fault.All(errs...)
}

// ThawMount thaws a file system that a killed process of this program left
// frozen. One that is not frozen is no error, and one that another program froze
// is left alone. If the point is gone, any other mount of the device
// serves: the freeze belongs to the file system. not_found if it is mounted
// nowhere in this namespace.
func ThawMount(t Target) error {
	mark := markOf(marks, t.Dev)
	if !mark.isSet() {
		return nil
	}
	dir, err := openMountPoint(t)
	if err != nil {
		dir, err = openElsewhere(t.Dev, err)
	}
	if err != nil {
		mark.clear() // it is mounted nowhere: what is mounted there later was not frozen by this
		return err
	}
	defer dir.Close()
	if err := ioctl(dir, fiThaw); err != nil && err != unix.EINVAL { // EINVAL: not frozen
		return fault.New(fault.Internal, "thaw %s: %w", t.Point, err).
			WithHint("fsfreeze -u %s", t.Point)
	}
	mark.clear()
	return nil
}

func openElsewhere(dev Dev, because error) (*os.File, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range On(mounts, dev) {
		if dir, err := openMountPoint(Target{m.Point, dev}); err == nil {
			return dir, nil
		}
	}
	return nil, because
}
