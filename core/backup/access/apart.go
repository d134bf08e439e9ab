package access

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

// IsolatedBackend is a backend in a mount namespace of its own. Nobody else sees what the backend mounts there, nor the
// snapshots that are mounted there for it.
type IsolatedBackend struct {
	*plugin.Client
	host      *Host
	namespace *filesystem.Space
	mounted   []filesystem.Mount // in the order in which they were mounted
	lost      []error            // a fault for each snapshot that somebody else has unmounted
}

// StartApart starts a process of the backend in a mount namespace of its own. The caller closes it.
func (h *Host) StartApart(ctx context.Context) (*IsolatedBackend, error) {
	namespace, err := filesystem.NewSpace()
	if err != nil {
		return nil, err
	}
	a := &IsolatedBackend{host: h, namespace: namespace}
	if err := a.startClient(ctx); err != nil {
		return nil, fault.All(err, namespace.Close())
	}
	return a, nil
}

// startClient starts a process of the backend in the namespace, in place of the one before. If that fails, Client stays
// as it was; every call of a client that has been closed returns an error.
func (a *IsolatedBackend) startClient(ctx context.Context) error {
	return a.namespace.Do(func() error {
		client, err := a.host.start(ctx)
		if err == nil {
			a.Client = client
		}
		return err
	})
}

// InNamespace calls fn in the mount namespace of the backend.
func (a *IsolatedBackend) InNamespace(fn func() error) error { return a.namespace.Do(fn) }

// Close ends the process, and the namespace with all its mounts.
func (a *IsolatedBackend) Close() error { return fault.All(a.Client.Close(), a.namespace.Close()) }

// MountSnapshots mounts the snapshots in the namespace, each on top of the mount of its volume. That mount of the
// volume is left in place below the snapshot: when somebody unmounts the volume outside, the kernel unmounts its copy
// here as well, and the snapshot stays.
func (a *IsolatedBackend) MountSnapshots(ctx context.Context, r command.Runner, specs []filesystem.MountSpec) error {
	// A parent comes before the mount points in it.
	slices.SortFunc(specs, func(x, y filesystem.MountSpec) int { return strings.Compare(x.Point, y.Point) })
	return a.namespace.Do(func() error {
		err := a.mount(unmountedDir, func() error {
			return unix.Mount("tmpfs", unmountedDir, "tmpfs", 0, "size=1m,mode=0700")
		})
		for i := 0; i < len(specs) && err == nil; i++ {
			err = a.mount(specs[i].Point, func() error { return filesystem.MountDevice(ctx, r, specs[i]) })
		}
		return err
	})
}

// mount has doMount mount something at a mount point, and notes that mount. If the point is an automount point at which
// nothing is mounted, mount first unmounts the automount, in this namespace only. Otherwise every access to the point
// would have systemd mount the volume outside the namespace, where it is not seen from inside.
func (a *IsolatedBackend) mount(point string, doMount func() error) error {
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
	if err := doMount(); err != nil {
		return fault.New(fault.MountFailed, "for the backend: %w", err)
	}
	mounts, err = filesystem.Mounts()
	if m, ok := filesystem.At(mounts, point); ok {
		a.mounted = append(a.mounted, m)
	}
	return err
}

// UnmountSnapshots unmounts the snapshots again. If the backend, or a program that it left running, still keeps one of
// them open, the backend is ended and started again. Faults: set_differs if somebody else has unmounted a snapshot
// meanwhile; busy.
func (a *IsolatedBackend) UnmountSnapshots(ctx context.Context) error {
	err := a.namespace.Do(a.unmountAll)
	if errors.Is(err, fault.Busy) {
		err = fault.All(a.Client.Close(), a.namespace.Do(a.unmountAll), a.startClient(ctx))
	}
	return fault.All(append(a.lost, err)...)
}

// unmountAll unmounts the snapshots, the last one first. It runs on a thread in the namespace.
func (a *IsolatedBackend) unmountAll() error {
	mounts, err := filesystem.Mounts() // of the calling thread
	if err != nil {
		return err
	}
	for ; len(a.mounted) > 0; a.mounted = a.mounted[:len(a.mounted)-1] {
		m := a.mounted[len(a.mounted)-1]
		if found, _ := filesystem.At(mounts, m.Point); found.ID != m.ID || found.Dev != m.Dev {
			const msg = "the snapshot at %s was unmounted before the backend was done with it"
			a.lost = append(a.lost, fault.New(fault.SetDiffers, msg, m.Point))
			continue
		}
		if err := filesystem.Unmount(m.Point); err != nil {
			return err
		}
	}
	return nil
}
