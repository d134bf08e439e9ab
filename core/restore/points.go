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

// points are the mounted snapshots of a set, seen by one thread only, and a descriptor of each that others can use.
type points struct{ dirs []*os.File }

// mount mounts the set for writing, on the calling thread.
func (w *work) mount(ctx context.Context) (*points, error) {
	if err := os.MkdirAll(pointDir, 0o700); err != nil {
		return nil, fault.New(fault.MountFailed, "mount point: %w", err)
	}
	if err := unix.Mount("tmpfs", pointDir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		return nil, fault.New(fault.MountFailed, "memory file system on %s: %w", pointDir, err)
	}
	p := &points{}
	for i := range w.own.Parts {
		if err := w.mountOne(ctx, p, i); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (w *work) mountOne(ctx context.Context, p *points, i int) error {
	spec, err := w.own.Parts[i].MountSpec(ctx, w.commands, point(i), true)
	if err != nil {
		return err
	}
	if err := os.Mkdir(spec.Point, 0o700); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", spec.Point, err)
	}
	if err := filesystem.MountDevice(ctx, w.commands, spec); err != nil {
		return err
	}
	dir, err := os.Open(spec.Point)
	if err != nil {
		return fault.New(fault.MountFailed, "%s: %w", spec.Point, err)
	}
	p.dirs = append(p.dirs, dir)
	return nil
}

// path names a mounted snapshot so that every thread finds it.
func (p *points) path(i int) string { return fmt.Sprintf("/proc/self/fd/%d", p.dirs[i].Fd()) }

// flush writes out what is still in memory, and says what the device said to it.
func (p *points) flush(ctx context.Context, i int, report func()) error {
	if err := backup.Flush(ctx, p.dirs[i], report); err != nil && ctx.Err() == nil {
		return fault.New(fault.CommandFailed, "write to the snapshot: %w", err)
	}
	return ctx.Err()
}

func (p *points) close() {
	for _, dir := range p.dirs {
		dir.Close()
	}
	p.dirs = nil
}

// unmount closes and unmounts all, on the thread that mounted them.
func (p *points) unmount() error {
	n := len(p.dirs)
	p.close()
	var errs []error
	for i := n - 1; i >= 0; i-- {
		errs = append(errs, filesystem.Unmount(point(i)))
	}
	return fault.All(errs...)
}
