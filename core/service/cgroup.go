package service

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/proc"
)

// unified returns where below mount the unified hierarchy of control groups
// is: mount itself, or its part of a mixed one; empty if there is none.
func unified(mount string) string {
	for _, dir := range []string{mount, filepath.Join(mount, "unified")} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	return ""
}

// waitEmpty waits until no process is left in a control group and those below
// it, or ctx ends. The kernel tells by cgroup.events (cgroups(7)).
func waitEmpty(ctx context.Context, group string) error {
	events := filepath.Join(group, "cgroup.events")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	changes := os.NewFile(uintptr(fd), "changes of "+events)
	defer changes.Close()
	if _, err := unix.InotifyAddWatch(fd, events, unix.IN_MODIFY); err == unix.ENOENT {
		return nil // systemd has removed the empty group
	} else if err != nil {
		return &os.PathError{Op: "watch", Path: events, Err: err}
	}
	defer context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })()
	buffer := make([]byte, 4096)
	for {
		busy, err := populated(events)
		if err != nil || !busy {
			return err
		}
		if _, err := changes.Read(buffer); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// populated tells whether processes are in a group. A removed group has none.
func populated(events string) (bool, error) {
	data, err := os.ReadFile(events)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return bytes.Contains(data, []byte("populated 1")), err
}

// members returns the processes of a group and those below it.
func members(group string) []int {
	var pids []int
	_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // a group that was removed meanwhile has none
		}
		data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// waitProcess waits until a process of a unit has ended, or ctx does. Where that cannot be told it returns at once.
func (s *Systemd) waitProcess(ctx context.Context, unit string, pid int) {
	p, err := proc.Open(pid)
	if err != nil {
		return
	}
	defer p.Close()
	if s.proc.Unit(pid) == unit { // else the number is another process's by now
		_ = p.Wait(ctx)
	}
}
