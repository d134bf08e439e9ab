package run

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// Apart is a backend with mounts of its own, which nobody else sees: what it mounts itself, and the snapshots that it
// is shown.
type Apart struct {
	*plugin.Client
	host  *Host
	space *filesystem.Space
	shown []filesystem.Mount // the last one last
	gone  []error            // what is not shown any more, although nobody here took it away
}

// StartApart starts a process of the backend with mounts of its own.
func (h *Host) StartApart(ctx context.Context) (*Apart, error) {
	space, err := filesystem.NewSpace()
	if err != nil {
		return nil, err
	}
	a := &Apart{host: h, space: space}
	if err := a.start(ctx); err != nil {
		return nil, fault.All(err, space.Close())
	}
	return a, nil
}

// start leaves the client that was there where it fails: one that is closed says so to every call.
func (a *Apart) start(ctx context.Context) error {
	return a.space.Do(func() error {
		client, err := a.host.start(ctx)
		if err == nil {
			a.Client = client
		}
		return err
	})
}

// Close ends the process; its mounts go with it.
func (a *Apart) Close() error { return fault.All(a.Client.Close(), a.space.Close()) }

// show mounts the snapshots where the volumes are mounted, over them. Over, because whoever unmounts a volume outside
// unmounts here, too, what is mounted in its place: that is the copy of its own mount, and the snapshot stays.
func (a *Apart) show(ctx context.Context, r command.Runner, specs []filesystem.MountSpec) error {
	slices.SortFunc(specs, func(x, y filesystem.MountSpec) int { return strings.Compare(x.Point, y.Point) }) // a parent before what lies in it
	return a.space.Do(func() error {
		err := a.mount(pointDir, func() error { return unix.Mount("tmpfs", pointDir, "tmpfs", 0, "size=1m,mode=0700") })
		for i := 0; i < len(specs) && err == nil; i++ {
			err = a.mount(specs[i].Point, func() error { return filesystem.MountDevice(ctx, r, specs[i]) })
		}
		return err
	})
}

// mount has fn mount something at a point. An automount point that nothing is mounted at is taken away first, in this
// namespace alone: every look at it would have systemd mount the volume outside, where it is not seen from here.
func (a *Apart) mount(point string, fn func() error) error {
	mounts, err := filesystem.Mounts() // of the calling thread
	if err != nil {
		return err
	}
	if m, ok := filesystem.At(mounts, point); ok && m.Type == filesystem.Autofs {
		if err := filesystem.Unmount(point); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(point, 0o700); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", point, err)
	}
	if err := fn(); err != nil {
		return fault.New(fault.MountFailed, "for the backend: %w", err)
	}
	mounts, err = filesystem.Mounts()
	if m, ok := filesystem.At(mounts, point); ok {
		a.shown = append(a.shown, m)
	}
	return err
}

// hide takes the snapshots away again. A backend that holds one still, itself or by what it left running, is ended and
// started anew. Faults: set_differs where a snapshot was not to be seen until now, whoever took it away; busy.
func (a *Apart) hide(ctx context.Context) error {
	err := a.space.Do(a.unmount)
	if errors.Is(err, fault.Busy) {
		err = fault.All(a.Client.Close(), a.space.Do(a.unmount), a.start(ctx))
	}
	return fault.All(append(a.gone, err)...)
}

func (a *Apart) unmount() error {
	mounts, err := filesystem.Mounts() // of the calling thread
	if err != nil {
		return err
	}
	for ; len(a.shown) > 0; a.shown = a.shown[:len(a.shown)-1] {
		m := a.shown[len(a.shown)-1]
		if seen, _ := filesystem.At(mounts, m.Point); seen.ID != m.ID || seen.Dev != m.Dev {
			a.gone = append(a.gone, fault.New(fault.SetDiffers, "the snapshot at %s was unmounted before the backend was done with it", m.Point))
			continue
		}
		if err := filesystem.Unmount(m.Point); err != nil {
			return err
		}
	}
	return nil
}
