package filesystem

import (
	"context"
	"os"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// privateLimit bounds what runs in a private namespace: comparing two trees of
// millions of files takes minutes.
const privateLimit = time.Hour

// RunPrivate starts our own program, by its absolute path, in a mount
// namespace of its own and returns what it printed. Whatever it mounts there is
// seen by no one else and is gone with it, even after a SIGKILL. Before it
// mounts anything it must call EnterPrivate.
func RunPrivate(ctx context.Context, r command.Runner, self string, args []string, stdin []byte) ([]byte, error) {
	out, err := r.Run(ctx, command.Cmd{
		Argv: append([]string{self}, args...), Self: true, PrivateMounts: true,
		Stdin: stdin, Limit: privateLimit,
	})
	return []byte(out.Stdout), err
}

// EnterPrivate makes sure that mounts made here stay here. It refuses
// (internal) if the process is in init's namespace, where it would cut the whole
// system off from the mounts of others.
func EnterPrivate() error {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fault.New(fault.Internal, "own mount namespace: %w", err)
	}
	if inits, err := os.Readlink("/proc/1/ns/mnt"); err != nil || inits == ours {
		return fault.New(fault.Internal, "not in a mount namespace of its own")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fault.New(fault.Internal, "make the mounts private: %w", err)
	}
	return nil
}
