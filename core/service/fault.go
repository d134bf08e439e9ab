package service

import (
	"context"
	"errors"
	"io/fs"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
)

// busFault returns the fault for a call to systemd that failed. The format and a say what was asked. Faults:
// interrupted or timeout if ctx has ended, timeout if systemd does not answer, not_root if systemd denies access, else
// service_failed.
func busFault(ctx context.Context, err error, format string, a ...any) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Of(ctx.Err()).Code, format+": %w", append(a, ctx.Err())...)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Timeout, format+": systemd does not answer: %w", append(a, err)...).
			WithHint("look whether it works: `systemctl is-system-running`; while it reloads a large server it answers nobody")
	case bus.IsError(err, bus.AccessDenied), errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRoot, format+": %w", append(a, err)...).WithHint("run as root (become: true)")
	}
	return fault.New(fault.ServiceFailed, format+": %w", append(a, err)...)
}
