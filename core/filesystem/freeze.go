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

// Target is a file system to freeze: its mount point, and the device that must be mounted there.
type Target struct {
	Point string `json:"point"`
	Dev   Dev    `json:"dev"`
}

// fiFreeze and fiThaw are the ioctls FIFREEZE and FITHAW of linux/fs.h, which x/sys/unix does not have.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// Frozen is a group of frozen file systems. They are thawed by Thaw, or when the limit or the context ends.
type Frozen struct {
	freezes []*fsFreeze
	thawed  chan struct{} // closed by Thaw, which ends thawAtLimit
	once    sync.Once
}

// Freeze stops all writes to the file systems of the targets, and returns when all of them are frozen. If one cannot be
// frozen, it thaws the others and returns an error. Each file system stays frozen until it is thawed, but no longer
// than limit, and not beyond the end of ctx; if one of these ended the freeze, Thaw returns an error.
//
// Dirty pages are written out before the first file system is frozen, so that writers wait for little more than the
// freeze itself. Writing them out may take up to limit as well. Targets on one device are frozen once.
//
// Faults: not_found or unsupported if a target is not the mount point of its device, unsupported if its file system
// cannot be frozen, busy if another program has frozen it, freeze_timeout at the limit, interrupted or timeout if ctx
// ends, not_root, internal. The error is also an ErrFreezing if a file system may still freeze later.
func Freeze(ctx context.Context, targets []Target, limit time.Duration) (*Frozen, error) {
	freezes, err := openAll(targets)
	if err != nil {
		return nil, err
	}
	return freezeAll(ctx, freezes, limit)
}

func freezeAll(ctx context.Context, freezes []*fsFreeze, limit time.Duration) (*Frozen, error) {
	f := &Frozen{freezes: freezes, thawed: make(chan struct{})}
	if err := f.runAll(ctx, limit, "written out", (*fsFreeze).sync); err != nil {
		return nil, fault.All(err, f.Thaw())
	}
	deadline := time.Now().Add(limit)
	if err := f.runAll(ctx, limit, "frozen", (*fsFreeze).freeze); err != nil {
		return nil, fault.All(err, f.Thaw())
	}
	go f.thawAtLimit(ctx, time.Until(deadline))
	return f, nil
}

// openAll opens every target, or returns an error and leaves none open.
func openAll(targets []Target) ([]*fsFreeze, error) {
	var freezes []*fsFreeze
	var errs []error
	byDev := make(map[Dev]*fsFreeze)
	for _, t := range targets {
		dir, err := openMountPoint(t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if fs := byDev[t.Dev]; fs != nil {
			fs.points = append(fs.points, t.Point)
			_ = dir.Close() // it was opened only to check the target
			continue
		}
		fs := &fsFreeze{points: []string{t.Point}, dir: dir, mark: markOf(marksDir, t.Dev)}
		byDev[t.Dev] = fs
		freezes = append(freezes, fs)
	}
	if err := fault.All(errs...); err != nil {
		for _, fs := range freezes {
			_ = fs.thaw()
		}
		return nil, err
	}
	return freezes, nil
}

// openMountPoint opens a directory and checks through the descriptor, which later mounts do not affect, that it is the
// root of a mount of the device. FIFREEZE on any other directory would freeze the file system that holds it.
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

// runAll runs one step for all file systems at the same time. done is the step's participle for the error message, such
// as "frozen". At the limit or at the end of ctx runAll returns without waiting for the steps that are still running.
func (f *Frozen) runAll(ctx context.Context, limit time.Duration, done string, step func(*fsFreeze) error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	results := make(chan error, len(f.freezes))
	for _, fs := range f.freezes {
		go func() { results <- step(fs) }()
	}
	var errs []error
	for range f.freezes {
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
	for _, fs := range f.freezes {
		points = append(points, fs.points...)
	}
	return strings.Join(points, ", ")
}

// thawAtLimit thaws all file systems when left has passed or ctx ends, unless Thaw is called first.
func (f *Frozen) thawAtLimit(ctx context.Context, left time.Duration) {
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-f.thawed:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	for _, fs := range f.freezes {
		fs.expire()
	}
}

// Thaw thaws every file system that is still frozen. A file system whose freeze is still under way is thawed when that
// freeze returns; then the error is an ErrFreezing. Thaw may be called at any time, and more than once. Faults:
// freeze_timeout if the limit, the context or another program thawed a file system before, because then the file
// systems were not all frozen at one instant; internal.
func (f *Frozen) Thaw() error {
	f.once.Do(func() { close(f.thawed) })
	errs := make([]error, 0, len(f.freezes))
	for _, fs := range f.freezes {
		errs = append(errs, fs.thaw())
	}
	return fault.All(errs...)
}

// ThawMount thaws a file system that a killed process of this program left frozen. It is no error if the file system is
// not frozen; if another program froze it, it stays frozen. If t.Point is no longer a mount point of the device, any
// other mount of the device is used, because a freeze belongs to the file system and not to the mount. Faults:
// not_found if the device is not mounted in this namespace, internal.
func ThawMount(t Target) error {
	mark := markOf(marksDir, t.Dev)
	if !mark.isSet() {
		return nil
	}
	dir, openErr := openMountPoint(t)
	if openErr != nil {
		var err error
		if dir, err = openOtherMount(t.Dev); err != nil {
			return err
		}
	}
	if dir == nil {
		mark.clear() // the device is not mounted: this program has not frozen what is mounted from it later
		return openErr
	}
	defer dir.Close()
	if err := ioctl(dir, fiThaw); err != nil && err != unix.EINVAL { // EINVAL: not frozen
		return fault.New(fault.Internal, "thaw %s: %w", t.Point, err).
			WithHint("fsfreeze -u %s", t.Point)
	}
	mark.clear()
	return nil
}

// openOtherMount opens any mount point of the device; nil if there is none.
func openOtherMount(dev Dev) (*os.File, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range On(mounts, dev) {
		if dir, err := openMountPoint(Target{m.Point, dev}); err == nil {
			return dir, nil
		}
	}
	return nil, nil
}
