// Package proc tells of this host's processes, by proc(5), and signals and waits for such as are not our children.
package proc

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type Stat struct {
	PID        int
	State      string // one letter
	Parent     int
	Group      int
	Session    int
	Terminal   int    // 0: it has none
	Ticks      uint64 // of the processor, that it and its threads have used
	StartTicks uint64 // since the boot, when it started: tells it from another that was given its number later
}

// Lives is false for a process that has ended and waits for its parent to notice: it holds nothing any more.
func (s Stat) Lives() bool { return s.State != "Z" && s.State != "X" }

// Leads tells whether the process is the leader of a session (setsid(2)).
func (s Stat) Leads() bool { return s.PID == s.Session }

// Find returns a process; false if there is none.
func Find(pid int) (Stat, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, false
	}
	return parse(string(data))
}

// All yields the processes there are, also those that have ended and wait for their parents.
func All() iter.Seq[Stat] {
	return func(yield func(Stat) bool) {
		dirs, _ := filepath.Glob("/proc/[0-9]*") // fails for a bad pattern only
		for _, dir := range dirs {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				continue
			}
			if s, ok := Find(pid); ok && !yield(s) {
				return
			}
		}
	}
}

// parse reads a line of /proc/PID/stat. The program's name, in parentheses, may hold anything.
func parse(text string) (s Stat, ok bool) {
	open, shut := strings.Index(text, " ("), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return Stat{}, false
	}
	fields := strings.Fields(text[shut+1:]) // from the third on
	if len(fields) < 20 {
		return Stat{}, false
	}
	var errs []error
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		errs = append(errs, err)
		return n
	}
	ticks := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		errs = append(errs, err)
		return n
	}
	s = Stat{
		PID: number(text[:open]), State: fields[0], Parent: number(fields[1]), Group: number(fields[2]),
		Session: number(fields[3]), Terminal: number(fields[4]), Ticks: ticks(fields[11]) + ticks(fields[12]),
		StartTicks: ticks(fields[19]),
	}
	if errors.Join(errs...) != nil {
		return Stat{}, false
	}
	return s, true
}

// Handle is one process for as long as it is held, whoever is given its number later (pidfd_open(2)).
type Handle struct {
	fd   int
	file *os.File // the same: os.File.Fd would make waits uninterruptible
}

// Open returns a handle of a process; the error is ESRCH if there is none.
func Open(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	_ = unix.SetNonblock(fd, true) // so that the end of a context ends a wait
	return &Handle{fd, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close gives the handle back.
func (h *Handle) Close() { _ = h.file.Close() }

// Signal sends a signal. That the process has ended is no error.
func (h *Handle) Signal(signal unix.Signal) error {
	err := unix.PidfdSendSignal(h.fd, signal, nil, 0)
	if err == unix.ESRCH {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// Wait waits until the process has ended. The error is that of ctx.
func (h *Handle) Wait(ctx context.Context) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	_ = h.file.SetReadDeadline(time.Time{}) // an earlier wait may have ended with its context
	defer context.AfterFunc(ctx, func() { _ = h.file.SetReadDeadline(time.Unix(1, 0)) })()
	ended := false
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ended = n > 0
		return ended || err != nil && err != unix.EINTR
	})
	switch {
	case ended:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Wait waits until a process has ended, as Handle.Wait does; if there is none, it has.
func Wait(ctx context.Context, pid int) error {
	h, err := Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Wait(ctx)
}
