package filesystem

import (
	"context"
	"errors"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// blkidNothing and blkidSeveral are exit codes of blkid (blkid(8), EXIT STATUS).
const (
	blkidNothing = 2
	blkidSeveral = 8
)

// TypeOf returns the type of the file system on a device, as blkid(8) finds it on the device itself. Faults:
// unsupported if the device has no known file system, or has the traces of several; that of the command if blkid fails.
func TypeOf(ctx context.Context, r command.Runner, device string) (string, error) {
	out, err := r.Run(ctx, command.Cmd{Argv: []string{"blkid", "-p", "-s", "TYPE", "-o", "value", "--", device}})
	fstype := strings.TrimSpace(out.Stdout)
	failed := (*command.Error)(nil)
	switch errors.As(err, &failed); {
	case err == nil && fstype != "":
		return fstype, nil
	case err == nil || failed != nil && failed.Code == blkidNothing:
		return "", fault.New(fault.Unsupported, "%s holds no file system that blkid knows", device).
			WithHint("look at it: blkid -p %s", device)
	case failed != nil && failed.Code == blkidSeveral:
		return "", fault.New(fault.Unsupported, "%s has traces of several file systems", device).
			WithHint("`wipefs %s` lists them and removes none; `wipefs -o OFFSET %s` removes one", device, device)
	}
	return "", fault.New(fault.Of(err).Code, "find what file system is on %s: %w", device, err)
}
