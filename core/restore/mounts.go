package restore

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// mountedSnapshots are the mounted snapshots of a set. The mounts are visible to one thread only; an open directory of
// each lets other threads reach it.
type mountedSnapshots struct{ dirs []*os.File }

// mount mounts the set for writing, in the mount namespace of the calling thread.
func (r *restoreRun) mount(ctx context.Context) (*mountedSnapshots, error) {
	if err := os.MkdirAll(mountDir, 0o700); err != nil {
		return nil, fault.New(fault.MountFailed, "mount point: %w", err)
	}
	if err := unix.Mount("tmpfs", mountDir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		return nil, fault.New(fault.MountFailed, "memory file system on %s: %w", mountDir, err)
	}
	mounted := &mountedSnapshots{}
	for i := range r.ownSet.Parts {
		if err := r.mountPart(ctx, mounted, i); err != nil {
			mounted.close()
			return nil, err
		}
	}
	return mounted, nil
}

func (r *restoreRun) mountPart(ctx context.Context, mounted *mountedSnapshots, i int) error {
	spec, err := r.ownSet.Parts[i].MountSpec(ctx, r.commands, mountPoint(i), true)
	if err != nil {
		return err
	}
	if err := os.Mkdir(spec.Point, 0o700); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", spec.Point, err)
	}
	if err := filesystem.MountDevice(ctx, r.commands, spec); err != nil {
		return err
	}
	dir, err := os.Open(spec.Point)
	if err != nil {
		return fault.New(fault.MountFailed, "%s: %w", spec.Point, err)
	}
	mounted.dirs = append(mounted.dirs, dir)
	return nil
}

// path returns a path of a mounted snapshot that works on every thread.
func (m *mountedSnapshots) path(i int) string { return fmt.Sprintf("/proc/self/fd/%d", m.dirs[i].Fd()) }

// flush writes what is still in memory to the snapshot, and returns the device's write error. report is called while it
// waits.
func (m *mountedSnapshots) flush(ctx context.Context, i int, report func()) error {
	if err := backup.Flush(ctx, m.dirs[i], report); err != nil && ctx.Err() == nil {
		return fault.New(fault.CommandFailed, "write to the snapshot: %w", err)
	}
	return ctx.Err()
}

func (m *mountedSnapshots) close() {
	for _, dir := range m.dirs {
		dir.Close()
	}
	m.dirs = nil
}

// unmount closes and unmounts all of them. It must run on the thread that mounted them.
func (m *mountedSnapshots) unmount() error {
	n := len(m.dirs)
	m.close()
	var errs []error
	for i := n - 1; i >= 0; i-- {
		errs = append(errs, filesystem.Unmount(mountPoint(i)))
	}
	return fault.All(errs...)
}
