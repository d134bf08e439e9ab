package journey

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/proc"
)

// leftoverLimit bounds the wait for the programs that the killed journey had started.
const leftoverLimit = 2 * time.Minute

// leftovers sees to it that nothing that a killed journey started is at work any more when it is settled.
//
// Programs that change volumes or mounts are waited for: to settle beside an lvcreate that is still running would race
// with it, and killing it is how volumes are left half-made. All others, backends and what they run, are killed: they
// would go on reading a snapshot that is to be removed. LVM's own poller, which lives as long as a merge does, is left
// alone.
func leftovers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverLimit)
	defer cancel()
	path, err := ownGroup()
	if err != nil || path == "" {
		return err
	}
	for {
		pids, err := members(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := end(ctx, pid); err != nil {
				return err
			}
		}
	}
}

// AwaitCommands waits until no program is at work any more that the journey of this entry started, where another one
// settles it: a command of LVM's that was not killed with its journey may still be about to change a volume. Its
// pollers are not waited for, nor what settles it in its own unit, which may wait for us.
func AwaitCommands(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverLimit)
	defer cancel()
	own, err := ownGroup()
	if err != nil {
		return err
	}
	for _, path := range groupsOf(id) {
		if path == own {
			continue // settle has waited for them
		}
		pids, err := members(path)
		if err != nil {
			continue // the unit has ended
		}
		for _, pid := range pids {
			if isJourney(pid) {
				continue
			}
			if err := await(ctx, pid); err != nil {
				return err
			}
		}
	}
	return nil
}

// groupsOf are the control groups of the journey that wrote the entry: its own id, or that with a number behind it.
func groupsOf(id string) []string {
	first := id
	if i := strings.LastIndexByte(id, '-'); i > 0 {
		first = id[:i]
	}
	const slice = "/sys/fs/cgroup/system.slice"
	return []string{filepath.Join(slice, unitOf(id)), filepath.Join(slice, unitOf(first))}
}

// isJourney knows this program in a journey's unit, as its main process or as its ExecStopPost=.
func isJourney(pid int) bool {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	words := strings.Split(string(data), "\x00")
	return len(words) > 1 && (words[1] == "settle" || words[1] == "journey")
}

// ownGroup is the control group of this journey's unit; empty if this runs by hand, or at boot.
func ownGroup() (string, error) {
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fault.New(fault.Internal, "own control group: %w", err)
	}
	_, path, ok := strings.Cut(strings.TrimSpace(string(group)), "::")
	if !ok || !strings.Contains(path, UnitPrefix) {
		return "", nil
	}
	return filepath.Join("/sys/fs/cgroup", path), nil
}

// members are the processes in the control group that are to end.
func members(path string) ([]int, error) {
	pids, err := processes(path)
	return slices.DeleteFunc(pids, func(pid int) bool {
		return pid == os.Getpid() || isPoller(pid) || !lives(pid)
	}), err
}

func processes(path string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return nil, fault.New(fault.Internal, "own control group: %w", err)
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		pid, _ := strconv.Atoi(field)
		pids = append(pids, pid)
	}
	return pids, nil
}

// pollerLimit bounds the wait for a poller that is told to end.
const pollerLimit = 2 * time.Second

// EndPollers ends LVM's pollers that this journey started, when there is nothing left for them to look at: they would
// sleep until their next look, in the control group of a unit that has ended. LVM blocks the signal while it changes
// anything, so none is ended in the middle; one that does not end in time is left to end by itself.
func EndPollers(ctx context.Context) {
	path, err := ownGroup()
	if err != nil || path == "" {
		return
	}
	pids, _ := processes(path)
	pids = slices.DeleteFunc(pids, func(pid int) bool { return !isPoller(pid) })
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGTERM) // an error means that it is gone
	}
	ctx, cancel := context.WithTimeout(ctx, pollerLimit)
	defer cancel()
	for _, pid := range pids {
		_ = proc.Wait(ctx, pid)
	}
}

// end waits for the end of a process, which it kills unless it is in the middle of a change.
func end(ctx context.Context, pid int) error {
	p, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "process %d, started by the killed journey: %w", pid, err)
	}
	defer p.Close()
	command := commandOf(pid) // while it is there
	if !changes(nameOf(pid)) {
		_ = p.Signal(unix.SIGKILL) // the wait tells whether it worked
	}
	return ended(ctx, p, pid, command)
}

// await waits for the end of a process.
func await(ctx context.Context, pid int) error {
	p, err := proc.Open(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "process %d, started by the killed journey: %w", pid, err)
	}
	defer p.Close()
	return ended(ctx, p, pid, commandOf(pid))
}

func ended(ctx context.Context, p *proc.Handle, pid int, command string) error {
	if err := p.Wait(ctx); err != nil {
		return fault.New(fault.Timeout, "%s (pid %d), started by the killed journey, still runs after %s", command, pid, leftoverLimit).
			WithHint("look at what it waits for: cat /proc/%d/stack", pid)
	}
	return nil
}

// changes is true for the programs that must come to their end. Every LVM command runs as lvm (see package lvm).
func changes(name string) bool {
	return slices.Contains([]string{"lvm", "dmsetup", "cryptsetup", "mount", "umount"}, name) || strings.HasPrefix(name, "mount.")
}

func commandOf(pid int) string {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// isPoller knows LVM's poller, where lvmpolld does not do its work: it has made itself the leader of a session
// (setsid(2)), which no command does that ends by itself.
func isPoller(pid int) bool {
	s, ok := proc.Find(pid)
	return ok && s.Leads() && nameOf(pid) == "lvm"
}

func lives(pid int) bool {
	s, ok := proc.Find(pid)
	return ok && s.Lives()
}

func nameOf(pid int) string { return filesystem.Proc("/proc").Command(pid) }
