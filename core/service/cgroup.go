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

// populatedInterval is how often waitEmpty looks.
const populatedInterval = 20 * time.Millisecond

// waitEmpty waits until no process is left in a control group and in the groups below it, or ctx ends. It looks at
// cgroup.events (cgroups(7)) again and again. The kernel could tell of changes by inotify, but of that root has 128
// instances, which some containers use up: then services were stopped, and started again for nothing.
func waitEmpty(ctx context.Context, group string) error {
	events := filepath.Join(group, "cgroup.events")
	tick := time.NewTicker(populatedInterval)
	defer tick.Stop()
	for {
		hasProcesses, err := isPopulated(events)
		if err != nil || !hasProcesses {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// isPopulated reports whether a control group, or a group below it, has processes. events is its file cgroup.events. A
// removed group has none.
func isPopulated(events string) (bool, error) {
	data, err := os.ReadFile(events)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return bytes.Contains(data, []byte("populated 1")), err
}

// processesIn returns the processes of a control group and of the groups below it.
func processesIn(group string) []int {
	var pids []int
	_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // a group that was removed meanwhile has no processes
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

// waitProcess waits until a process of a unit has ended, or ctx ends. It returns at once if the process cannot be
// opened or does not belong to the unit.
func (s *Systemd) waitProcess(ctx context.Context, unit string, pid int) {
	p, err := proc.Open(pid)
	if err != nil {
		return
	}
	defer p.Close()
	if s.proc.Unit(pid) == unit { // else the pid now belongs to another process
		_ = p.Wait(ctx)
	}
}
