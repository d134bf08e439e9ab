package filesystem

import (
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Proc is the mount point of a proc(5) file system, usually "/proc".
type Proc string

func (p Proc) path(pid int, file string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), file)
}

// Command returns the process's name in the kernel (at most 15 bytes), or an empty string if the process has ended.
func (p Proc) Command(pid int) string {
	data, _ := os.ReadFile(p.path(pid, "comm"))
	return strings.TrimSuffix(string(data), "\n")
}

// Unit returns the unit of the system's systemd that a process belongs to: a service or a scope. A process under a
// user's own systemd belongs to user@UID.service, and a process in a container belongs to the container's unit: the
// name of a unit inside of these would mean a different unit outside. Unit returns an empty string if the process has
// ended or belongs to no unit.
func (p Proc) Unit(pid int) string {
	data, err := os.ReadFile(p.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return unitOf(string(data))
}

// unitOf finds the unit in a file /proc/PID/cgroup (cgroups(7)). It uses the line of the unified hierarchy or, in a
// mixed setup, the line of systemd's own hierarchy.
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || fields[0] != "0" && fields[1] != "name=systemd" {
			continue
		}
		if unit := outermostUnit(fields[2]); unit != "" {
			return unit
		}
	}
	return ""
}

// outermostUnit returns the outermost service or scope in the path of a control group.
func outermostUnit(path string) string {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			return strings.TrimPrefix(part, "_") // systemd puts this before names that cgroupfs itself uses
		}
	}
	return ""
}

// PIDs returns the ids of all processes in ascending order.
func (p Proc) PIDs() ([]int, error) {
	entries, err := dirNames(string(p))
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

// taskDirs returns the directories in /proc that show what a process has open. In most cases this is the directory of
// the process. A kernel thread and a zombie have no program and hold nothing, so there is none. If only the first
// thread of a process has ended, these are the directories of its threads.
func (p Proc) taskDirs(pid int) []string {
	if _, err := os.Readlink(p.path(pid, "exe")); err == nil || os.IsPermission(err) {
		return []string{p.path(pid, "")}
	}
	threads, err := dirNames(p.path(pid, "task"))
	if err != nil || len(threads) < 2 {
		return nil
	}
	for i, thread := range threads {
		threads[i] = p.path(pid, "task/"+thread)
	}
	return threads
}

// dirNames returns the names in a directory without asking the kernel for the type of each.
func dirNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
