package rollback

import (
	"context"
	"io"
	"os"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
)

// testHost is the host that it contains, except that it knows itself which devices are write-protected. mount(8) makes
// all its mounts.
type testHost struct {
	filesystem.Host
	writeProtection
}

func (h testHost) WriteProtected(d filesystem.Dev) (bool, error) { return h.writeProtection[d], nil }

func (h testHost) WriteProtect(d filesystem.Dev, on bool) error {
	h.writeProtection[d] = on
	return nil
}

func (testHost) Open(string) (io.Closer, error) { return os.Open(os.DevNull) }

func (testHost) Mount(ctx context.Context, r command.Runner, spec filesystem.MountSpec) error {
	return filesystem.MountDevice(ctx, r, spec)
}

// mountsHost is the host that it contains, with other mounts.
type mountsHost struct {
	filesystem.Host
	mounts []filesystem.Mount
}

func (h mountsHost) Mounts() ([]filesystem.Mount, error) { return h.mounts, nil }
