package rollback

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/proc"
)

// killGrace is how long a process may take to end after SIGTERM, and again after SIGKILL.
const killGrace = 10 * time.Second

// processToEnd is a process that is to be ended. Between the check that finds it and its end the services stop, which
// may take minutes, and the kernel may give its PID to another process. Only PID and start time together identify a
// process.
type processToEnd struct {
	filesystem.Holder
	startTicks uint64 // proc.Stat.StartTicks
}

// endProcesses ends processes with SIGTERM, and those that are still there after killGrace with SIGKILL.
func endProcesses(ctx context.Context, processes []processToEnd) error {
	var errs []error
	for _, p := range processes {
		if err := endProcess(ctx, p.PID, p.startTicks); err != nil {
			errs = append(errs, fault.New(fault.Busy, "%s (pid %d) cannot be ended: %w", p.Command, p.PID, err).
				WithHint("look at what it waits for: cat /proc/%d/stack", p.PID))
		}
	}
	return fault.All(errs...)
}

// endProcess ends the process with this PID and this start time. If another process has the PID now, the process has
// ended already.
func endProcess(ctx context.Context, pid int, startTicks uint64) error {
	handle, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Close()
	// Only now, while handle is held, can the PID not be given to another process any more.
	if current, ok := proc.Find(pid); !ok || current.StartTicks != startTicks {
		return nil
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := handle.Signal(signal); err != nil {
			return err
		}
		if awaitEnd(ctx, handle) {
			return nil
		}
	}
	return fault.New(fault.Timeout, "still there %s after SIGKILL", killGrace)
}

// awaitEnd waits for the end of a process, for killGrace at most, and reports whether it has ended.
func awaitEnd(ctx context.Context, handle *proc.Handle) bool {
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	return handle.Wait(ctx) == nil
}

// mustNotEnd is true for a process that is never ended: one of another run, sshd, and the leader of a session with a
// terminal, which is the login of a person.
func mustNotEnd(h filesystem.Holder) bool {
	if isOfRun(h) || strings.HasPrefix(h.Command, "sshd") || h.Command == "login" || h.Command == "systemd" {
		return true
	}
	p, ok := proc.Find(h.PID)
	return ok && p.IsSessionLeader() && p.Terminal != 0
}

// isOfRun is true for a process of another run. Such a process must be able to keep its journal entry up to date.
func isOfRun(h filesystem.Holder) bool { return strings.HasPrefix(h.Unit, journey.UnitPrefix) }

// ancestors returns the process and all processes that it descends from, by PID.
func ancestors(pid int) map[int]bool {
	pids := map[int]bool{}
	for pid > 0 && !pids[pid] {
		pids[pid] = true
		p, _ := proc.Find(pid)
		pid = p.Parent
	}
	return pids
}
