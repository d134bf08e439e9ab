package journey

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// leftoverLimit bounds the wait for a program that the killed journey had started.
const leftoverLimit = 2 * time.Minute

// leftovers waits for the LVM programs that a killed journey left in its control group: to settle beside an lvcreate
// that is still running would race with it, and killing it is how volumes are left half-made. LVM's own poller, which
// lives as long as a merge does, is not waited for.
func leftovers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverLimit)
	defer cancel()
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fault.New(fault.Internal, "own control group: %w", err)
	}
	_, path, ok := strings.Cut(strings.TrimSpace(string(group)), "::")
	if !ok || !strings.Contains(path, unitPrefix) {
		return nil // run by hand, or at boot: not in a journey's unit
	}
	pids, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, "cgroup.procs"))
	if err != nil {
		return fault.New(fault.Internal, "own control group: %w", err)
	}
	for _, field := range strings.Fields(string(pids)) {
		pid, _ := strconv.Atoi(field)
		if pid == os.Getpid() || !isLVM(pid) || isDaemon(pid) {
			continue
		}
		if err := waitFor(ctx, pid); err != nil {
			return fault.New(fault.Timeout, "%s (pid %d), started by the killed journey, still runs after %s",
				commandOf(pid), pid, leftoverLimit).WithHint("look at what it waits for: cat /proc/%d/stack", pid)
		}
	}
	return nil
}

func commandOf(pid int) string {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// isLVM is true for the programs that change volumes: every lvm command runs as lvm (see package lvm).
func isLVM(pid int) bool {
	comm, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	name := strings.TrimSpace(string(comm))
	return name == "lvm" || name == "dmsetup"
}

// isDaemon knows LVM's poller, where lvmpolld does not do its work: it has made itself the leader of a session
// (setsid(2)), which no command does that ends by itself. A process that is gone is none.
func isDaemon(pid int) bool {
	session, err := unix.Getsid(pid)
	return err == nil && session == pid
}

// waitFor waits for the end of a process that is not our child.
func waitFor(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		deadline, _ := ctx.Deadline()
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return context.DeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, time.Second).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
