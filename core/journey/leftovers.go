package journey

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/proc"
)

// leftoverLimit is how long the package waits for the programs that a killed run had started.
const leftoverLimit = 2 * time.Minute

// endLeftovers waits until nothing that the killed run had started is still at work, before the run is settled.
//
// It waits for programs that change volumes or mounts: settling while an lvcreate still runs would be a race with it,
// and killing an lvcreate is what leaves volumes half made. It kills all other programs, which are backends and what
// they run, because they would go on reading a snapshot that is about to be removed. It leaves LVM's own poller alone,
// which lives as long as a merge takes.
func endLeftovers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverLimit)
	defer cancel()
	path, err := ownCgroup()
	if err != nil || path == "" {
		return err
	}
	for {
		pids, err := leftoverProcesses(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := killOrAwait(ctx, pid); err != nil {
				return err
			}
		}
	}
}

// AwaitCommands waits until no program is at work any more that the run of this journal entry started and that changes
// volumes or mounts. It is for whoever settles the entry: an LVM command that was not killed together with its run, or
// that outlived its limit, may still be about to change a volume. An earlier attempt to settle the entry may have left
// one too, so it also waits for the LVM commands on the entry's volume groups that other runs started. It does not wait
// for LVM's pollers, nor for the process that settles the entry in the unit of the killed run, which may itself wait
// for this run. After two minutes the fault is timeout.
func AwaitCommands(ctx context.Context, e *journal.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverLimit)
	defer cancel()
	if _, err := os.Stat(hierarchy()); err != nil {
		return fault.New(fault.Internal, "the control groups of systemd: %w", err)
	}
	units, _ := filepath.Glob(filepath.Join(hierarchy(), "system.slice", UnitPrefix+"*.service"))
	for _, path := range units {
		isOfEntry := slices.Contains(unitsOf(e.ID), filepath.Base(path))
		pids, err := leftoverProcesses(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // the unit has ended meanwhile
		}
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if isRunProcess(pid) || !mustFinish(nameOf(pid)) || !isOfEntry && !isLVMOn(pid, e.Groups) {
				continue
			}
			if err := awaitProcess(ctx, pid); err != nil {
				return err
			}
		}
	}
	return nil
}

// cgroupMount is where control groups are mounted. Tests replace it.
var cgroupMount = proc.CgroupMount

// oldHierarchy is the directory of systemd's own hierarchy where there are only control groups of version 1.
const oldHierarchy = "systemd"

// hierarchy returns the directory of the hierarchy of control groups in which systemd keeps the processes of its units.
func hierarchy() string {
	if dir := proc.UnifiedHierarchy(cgroupMount); dir != "" {
		return dir
	}
	return filepath.Join(cgroupMount, oldHierarchy)
}

// unitsOf returns the units that the run of a journal entry may have. The entry's id is either the id of the run, or
// that id with a number appended (see the function entryID), so that there are two possibilities.
func unitsOf(id string) []string {
	withoutNumber := id
	if i := strings.LastIndexByte(id, '-'); i > 0 {
		withoutNumber = id[:i]
	}
	return []string{unitOf(id), unitOf(withoutNumber)}
}

// isLVMOn reports whether the process is an LVM command that names one of the volume groups, or a volume in one.
func isLVMOn(pid int, groups []string) bool {
	return nameOf(pid) == "lvm" && slices.ContainsFunc(strings.Fields(commandLine(pid)), func(word string) bool {
		group, _, _ := strings.Cut(word, "/")
		return slices.Contains(groups, group)
	})
}

// isRunProcess reports whether the process is the main process of a run's unit, or its ExecStopPost=.
func isRunProcess(pid int) bool {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	words := strings.Split(string(data), "\x00")
	return len(words) > 1 && (words[1] == "settle" || words[1] == "journey")
}

// ownCgroup returns the directory of the control group of this run's unit. It is empty if this process was started by
// hand.
func ownCgroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fault.New(fault.Internal, "own control group: %w", err)
	}
	return ownCgroupFrom(string(groups)), nil
}

// ownCgroupFrom is ownCgroup for the text of /proc/self/cgroup, which has a line for each hierarchy (cgroups(7)).
func ownCgroupFrom(groups string) string {
	root, prefix := hierarchy(), "0::"
	if filepath.Base(root) == oldHierarchy {
		prefix = "name=systemd:"
	}
	for line := range strings.Lines(groups) {
		_, path, ok := strings.Cut(strings.TrimSpace(line), prefix)
		if ok && strings.Contains(path, UnitPrefix) {
			return filepath.Join(root, path)
		}
	}
	return ""
}

// leftoverProcesses returns the processes in the control group, without this one, LVM's pollers, and those that have
// ended.
func leftoverProcesses(path string) ([]int, error) {
	pids, err := processes(path)
	return slices.DeleteFunc(pids, func(pid int) bool {
		return pid == os.Getpid() || isPoller(pid) || !isAlive(pid)
	}), err
}

// processes returns the ids of the processes in the control group.
func processes(path string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return nil, fault.New(fault.Internal, "the processes of a run: %w", err)
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		pid, _ := strconv.Atoi(field)
		pids = append(pids, pid)
	}
	return pids, nil
}

// pollerLimit is how long EndPollers waits for the pollers that it told to end.
const pollerLimit = 2 * time.Second

// EndPollers ends the pollers of LVM that this run started. It is called when all merges are done: a poller would
// otherwise sleep until its next poll, in the control group of a unit that has ended. LVM blocks SIGTERM while it
// changes anything, so that no poller is interrupted in a change. A poller that does not end within two seconds is left
// alone.
func EndPollers(ctx context.Context) {
	path, err := ownCgroup()
	if err != nil || path == "" {
		return
	}
	pids, _ := processes(path)
	pids = slices.DeleteFunc(pids, func(pid int) bool { return !isPoller(pid) })
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGTERM) // an error means that the process has ended
	}
	ctx, cancel := context.WithTimeout(ctx, pollerLimit)
	defer cancel()
	for _, pid := range pids {
		_ = proc.Wait(ctx, pid)
	}
}

// killOrAwait waits for the end of a process. It kills the process first, unless that is one that changes volumes or
// mounts.
func killOrAwait(ctx context.Context, pid int) error {
	p, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "process %d, started by the killed run: %w", pid, err)
	}
	defer p.Close()
	command := commandLine(pid) // before the kill, because it is empty afterwards
	if !mustFinish(nameOf(pid)) {
		_ = p.Signal(unix.SIGKILL) // if this fails, the wait below reports it
	}
	return awaitHandle(ctx, p, pid, command)
}

// awaitProcess waits for the end of a process.
func awaitProcess(ctx context.Context, pid int) error {
	p, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "process %d, started by the killed run: %w", pid, err)
	}
	defer p.Close()
	return awaitHandle(ctx, p, pid, commandLine(pid))
}

// awaitHandle waits until p has ended or ctx is done, which is the fault timeout.
func awaitHandle(ctx context.Context, p *proc.Handle, pid int, command string) error {
	if err := p.Wait(ctx); err != nil {
		return fault.New(fault.Timeout,
			"%s (pid %d), started by the killed run, still runs after %s", command, pid, leftoverLimit).
			WithHint("look at what it waits for: cat /proc/%d/stack", pid)
	}
	return nil
}

// mustFinish reports whether the program of that name changes volumes or mounts, so that it must not be killed. Every
// LVM command runs as lvm (see package lvm).
func mustFinish(name string) bool {
	return slices.Contains([]string{"lvm", "dmsetup", "cryptsetup", "mount", "umount"}, name) ||
		strings.HasPrefix(name, "mount.")
}

// commandLine returns the program and the arguments of a process, separated by spaces.
func commandLine(pid int) string {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// isPoller reports whether the process is a poller of LVM, which exists where LVM does not use lvmpolld. A poller has
// made itself the leader of a session (setsid(2)). Ordinary LVM commands do not do that.
func isPoller(pid int) bool {
	s, ok := proc.Find(pid)
	return ok && s.IsSessionLeader() && nameOf(pid) == "lvm"
}

// isAlive reports whether the process exists and is not a zombie.
func isAlive(pid int) bool {
	s, ok := proc.Find(pid)
	return ok && s.IsAlive()
}

// nameOf returns the name of a process's program.
func nameOf(pid int) string { return filesystem.Proc("/proc").Command(pid) }
