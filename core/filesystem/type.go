package filesystem

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// TypeOf returns what file system is on a device, as blkid(8) finds by looking at it. A device without one is
// unsupported.
func TypeOf(ctx context.Context, r command.Runner, device string) (string, error) {
	out, err := r.Run(ctx, command.Cmd{Argv: []string{"blkid", "-p", "-s", "TYPE", "-o", "value", "--", device}})
	fstype := strings.TrimSpace(out.Stdout)
	if err != nil || fstype == "" {
		return "", fault.New(fault.Unsupported, "%s holds no file system that blkid knows", device).
			WithHint("look at it: blkid -p %s", device)
	}
	return fstype, nil
}
