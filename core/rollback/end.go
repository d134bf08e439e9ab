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

// killGrace is how long a process may take to end after SIGTERM.
const killGrace = 10 * time.Second

// condemned is a process that is to be ended. Between the check that finds it and its end lie minutes in which services
// stop, and its number may be given to another process: only with the time of its start does it name one.
type condemned struct {
	filesystem.Holder
	began uint64 // proc.Stat.StartTicks
}

// end ends processes: SIGTERM, and SIGKILL for those that are still there after the grace.
func end(ctx context.Context, processes []condemned) error {
	var errs []error
	for _, h := range processes {
		if err := endOne(ctx, h.PID, h.began); err != nil {
			errs = append(errs, fault.New(fault.Busy, "%s (pid %d) cannot be ended: %w", h.Command, h.PID, err).
				WithHint("look at what it waits for: cat /proc/%d/stack", h.PID))
		}
	}
	return fault.All(errs...)
}

// endOne ends the process of that number that started then. If another has the number now, that one has ended.
func endOne(ctx context.Context, pid int, began uint64) error {
	p, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	// Only now, with p held, can the number not change hands any more.
	if now, ok := proc.Find(pid); !ok || now.StartTicks != began {
		return nil
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := p.Signal(signal); err != nil {
			return err
		}
		if ended(ctx, p) {
			return nil
		}
	}
	return fault.New(fault.Timeout, "still there %s after SIGKILL", killGrace)
}

func ended(ctx context.Context, p *proc.Handle) bool {
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	return p.Wait(ctx) == nil
}

// spared is true for what is never ended: another run of our own, sshd, and the leader of a session with a terminal,
// which is somebody's login.
func spared(h filesystem.Holder) bool {
	if ofARun(h) || strings.HasPrefix(h.Command, "sshd") || h.Command == "login" || h.Command == "systemd" {
		return true
	}
	p, ok := proc.Find(h.PID)
	return ok && p.Leads() && p.Terminal != 0
}

// ofARun says that it is another run's, which has a journal to keep.
func ofARun(h filesystem.Holder) bool { return strings.HasPrefix(h.Unit, journey.UnitPrefix) }

// ancestors are the process and those it descends from.
func ancestors(pid int) map[int]bool {
	out := map[int]bool{}
	for pid > 0 && !out[pid] {
		out[pid] = true
		p, _ := proc.Find(pid)
		pid = p.Parent
	}
	return out
}
