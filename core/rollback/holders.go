package rollback

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// killGrace is how long a process may take to end after SIGTERM.
const killGrace = 10 * time.Second

// end ends processes: SIGTERM, and SIGKILL for those that are still there after the grace.
func end(ctx context.Context, holders []filesystem.Holder) error {
	var errs []error
	for _, h := range holders {
		if err := endOne(ctx, h.PID); err != nil {
			errs = append(errs, fault.New(fault.Busy, "%s (pid %d) cannot be ended: %w", h.Command, h.PID, err).
				WithHint("look at what it waits for: cat /proc/%d/stack", h.PID))
		}
	}
	return fault.All(errs...)
}

func endOne(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0) // the number may belong to another process by the time we signal it
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		if ended(ctx, fd, killGrace) {
			return nil
		}
	}
	return fault.New(fault.Timeout, "still there %s after SIGKILL", killGrace)
}

func ended(ctx context.Context, pidfd int, within time.Duration) bool {
	deadline := time.Now().Add(within)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err == nil && n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}

// spared is true for what is never ended: sshd, and the leader of a session with a terminal, which is somebody's login.
func spared(h filesystem.Holder) bool {
	if strings.HasPrefix(h.Command, "sshd") || h.Command == "login" || h.Command == "systemd" {
		return true
	}
	pid, session, tty := statOf(h.PID)
	return pid == session && tty != 0
}

// ancestors are the process and those it descends from.
func ancestors(pid int) map[int]bool {
	out := map[int]bool{}
	for pid > 0 && !out[pid] {
		out[pid] = true
		fields := statFields(pid)
		if len(fields) < 2 {
			break
		}
		pid, _ = strconv.Atoi(fields[1])
	}
	return out
}

// statOf reads pid, session and terminal of a process (proc_pid_stat(5)).
func statOf(pid int) (id, session, tty int) {
	fields := statFields(pid) // from the third on: state ppid pgrp session tty_nr
	if len(fields) < 5 {
		return pid, 0, 0
	}
	session, _ = strconv.Atoi(fields[3])
	tty, _ = strconv.Atoi(fields[4])
	return pid, session, tty
}

func statFields(pid int) []string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	text := string(data)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name may hold spaces and parentheses
}
