package filesystem

import (
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Proc is a proc(5) file system by its mount point, "/proc".
type Proc string

func (p Proc) path(pid int, file string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), file)
}

// Command returns the kernel's name of a process (at most 15 bytes), empty if
// it has ended.
func (p Proc) Command(pid int) string {
	data, _ := os.ReadFile(p.path(pid, "comm"))
	return strings.TrimSuffix(string(data), "\n")
}

// Unit returns the unit of the system's systemd that a process belongs to: a
// service or a scope. What runs under a user's own systemd belongs to that
// user's user@UID.service, and what runs in a container to the container's unit:
// a unit's name inside of those means another unit outside. Empty if the
// process has ended or belongs to none.
func (p Proc) Unit(pid int) string {
	data, err := os.ReadFile(p.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return unitOf(string(data))
}

// unitOf parses /proc/PID/cgroup (cgroups(7)): the line of the unified
// hierarchy, or systemd's own in a mixed one.
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || fields[0] != "0" && fields[1] != "name=systemd" {
			continue
		}
		if unit := firstUnit(fields[2]); unit != "" {
			return unit
		}
	}
	return ""
}

// firstUnit returns the outermost service or scope of a control group's path.
func firstUnit(path string) string {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			return strings.TrimPrefix(part, "_") // systemd's escape for names that cgroupfs uses itself
		}
	}
	return ""
}

// pids lists the processes, in order.
func (p Proc) pids() ([]int, error) {
	entries, err := names(string(p))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e); err == nil {
			pids = append(pids, pid)
		}
	}
	sort.Slice(pids, func(i, j int) bool { return pids[i] < pids[j] })
	return pids, nil
}

// tasks returns the folders that show what a process has open: its own. A
// kernel thread and a zombie have no program and hold nothing; but the first
// thread may have ended while others go on, which then show it.
func (p Proc) tasks(pid int) []string {
	if _, err := os.Readlink(p.path(pid, "exe")); err == nil || os.IsPermission(err) {
		return []string{p.path(pid, "")}
	}
	threads, err := names(p.path(pid, "task"))
	if err != nil || len(threads) < 2 {
		return nil
	}
	for i, thread := range threads {
		threads[i] = p.path(pid, "task/"+thread)
	}
	return threads
}

// names lists a folder without asking for the kind of each entry.
func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
