// Package proc reads what proc(5) shows of this host's processes. It also signals processes and waits for their end,
// even if they are not children of this process.
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

// Stat describes a process, as /proc/PID/stat does (proc_pid_stat(5)).
type Stat struct {
	PID        int
	State      string // one letter
	Parent     int    // id of the parent process
	Group      int    // id of the process group
	Session    int    // id of the session
	Terminal   int    // device number of the controlling terminal; 0: none
	Ticks      uint64 // processor time that the process and its threads have used, in clock ticks
	StartTicks uint64 // time between the boot and its start, in clock ticks; a later process of the same id has another
}

// IsAlive reports whether the process has not ended. It is false for a zombie, which has no open files any more.
func (s Stat) IsAlive() bool { return s.State != "Z" && s.State != "X" }

// IsSessionLeader reports whether the process is the leader of a session (setsid(2)).
func (s Stat) IsSessionLeader() bool { return s.PID == s.Session }

// Find returns the process with this id. It returns false if there is none.
func Find(pid int) (Stat, bool) { return FindIn("/proc", pid) }

// FindIn is Find with the mount point of a proc(5) file system.
func FindIn(procDir string, pid int) (Stat, bool) {
	data, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, false
	}
	return parse(string(data))
}

// All yields all processes, including zombies.
func All() iter.Seq[Stat] {
	return func(yield func(Stat) bool) {
		dirs, _ := filepath.Glob("/proc/[0-9]*") // the only possible error is a malformed pattern
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

// parse reads the content of /proc/PID/stat. The second field is the program's name in parentheses, which may itself
// contain parentheses and spaces, so that parse looks for the last closing one.
func parse(text string) (s Stat, ok bool) {
	nameStart, nameEnd := strings.Index(text, " ("), strings.LastIndexByte(text, ')')
	if nameStart < 0 || nameEnd < nameStart {
		return Stat{}, false
	}
	fields := strings.Fields(text[nameEnd+1:]) // the third field and those after it
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
		PID: number(text[:nameStart]), State: fields[0], Parent: number(fields[1]), Group: number(fields[2]),
		Session: number(fields[3]), Terminal: number(fields[4]), Ticks: ticks(fields[11]) + ticks(fields[12]),
		StartTicks: ticks(fields[19]),
	}
	if errors.Join(errs...) != nil {
		return Stat{}, false
	}
	return s, true
}

// Handle refers to one process until Close. It never refers to a later process that the kernel gives the same id
// (pidfd_open(2)).
type Handle struct {
	fd   int
	file *os.File // of fd, which is kept because a call of os.File.Fd would make Wait uninterruptible
}

// Open returns a handle of the process with this id. If there is none, the error is ESRCH. The caller must Close the
// handle.
func Open(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	_ = unix.SetNonblock(fd, true) // so that Wait can be interrupted by the end of its context
	return &Handle{fd, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close releases the handle.
func (h *Handle) Close() { _ = h.file.Close() }

// Signal sends a signal to the process. If the process has ended, that is no error.
func (h *Handle) Signal(signal unix.Signal) error {
	err := unix.PidfdSendSignal(h.fd, signal, nil, 0)
	if err == unix.ESRCH {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// Wait waits until the process has ended, even if its parent has not reaped it. If ctx ends first, Wait returns its
// error, and may be called again.
func (h *Handle) Wait(ctx context.Context) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	_ = h.file.SetReadDeadline(time.Time{}) // an earlier Wait may have set a deadline in the past
	defer context.AfterFunc(ctx, func() { _ = h.file.SetReadDeadline(time.Unix(1, 0)) })()
	hasEnded := false
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		hasEnded = n > 0
		return hasEnded || err != nil && err != unix.EINTR
	})
	switch {
	case hasEnded:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Wait waits until the process with this id has ended, as Handle.Wait does. If there is no such process, it returns nil
// at once.
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
