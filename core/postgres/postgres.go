// Package postgres finds the PostgreSQL clusters that run on a server, and where their files lie. It asks the kernel
// and not the clusters: it needs no password and no connection.
package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/proc"
)

// Cluster is a PostgreSQL cluster that runs.
type Cluster struct {
	Data    string // its data directory, as its own processes see it
	Version string // the content of PG_VERSION, such as 15 or 9.6
	PID     int    // of its first process
	Unit    string // that process's unit; empty if it has none
	Parts   []Part // the data directory, and what of it lies elsewhere

	Archives bool // a process of it archives WAL
	Standbys int  // how many processes of it send WAL to another server, or to a program such as pg_receivewal
}

// Part is a directory that a cluster cannot be used without.
type Part struct {
	What string // data, pg_wal, tablespace NAME, or another directory of the data directory
	Path string // as the processes of the cluster see it, without symbolic links
	Dev  filesystem.Dev
}

// String names the cluster for a message.
func (c *Cluster) String() string { return "PostgreSQL " + c.Version + " in " + c.Data }

// scanLimit bounds the look at all processes: a data directory may lie on a file server that does not answer.
const scanLimit = 10 * time.Second

// Running returns the clusters that run, in the order of their data directories. Faults: timeout if a directory of one
// of them does not answer for 10 s; internal.
func Running() ([]Cluster, error) { return runningWithin("/proc", scanLimit) }

func runningWithin(procDir string, limit time.Duration) ([]Cluster, error) {
	type answer struct {
		clusters []Cluster
		err      error
	}
	done := make(chan answer, 1)
	go func() {
		clusters, err := running(procDir)
		done <- answer{clusters, err}
	}()
	select {
	case a := <-done:
		return a.clusters, a.err
	case <-time.After(limit):
		return nil, fault.New(fault.Timeout, "a directory of a PostgreSQL cluster does not answer for %s", limit).
			WithHint("see which: ls -ld /proc/*/cwd; does a file server answer?")
	}
}

// process is one process of a cluster.
type process struct{ pid, parent int }

// running is Running with the proc file system in procDir, and without a limit.
func running(procDir string) ([]Cluster, error) {
	pids, err := filesystem.Proc(procDir).PIDs()
	if err != nil {
		return nil, fault.New(fault.Internal, "processes: %w", err)
	}
	clusters := map[dirID][]process{}
	for _, pid := range pids {
		if id, ok := dataDirectory(procDir, pid); ok {
			stat, _ := proc.FindIn(procDir, pid) // of a process that has ended it has no parent
			clusters[id] = append(clusters[id], process{pid, stat.Parent})
		}
	}
	var found []Cluster
	for _, processes := range clusters {
		c, err := newCluster(procDir, processes)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, fault.New(fault.Internal, "%s: %w", cmp.Or(c.Data, "a PostgreSQL cluster"), err)
		}
		found = append(found, c)
	}
	// A generic sort of these would add 20 KB to the programs.
	sort.Slice(found, func(i, j int) bool {
		if found[i].Data != found[j].Data {
			return found[i].Data < found[j].Data
		}
		return found[i].PID < found[j].PID
	})
	return found, nil
}

// dirID identifies a directory.
type dirID struct {
	dev filesystem.Dev
	ino uint64
}

// programs are the names that the kernel has for the processes of a cluster: PostgreSQL's own, its old one, and that of
// EnterpriseDB.
var programs = []string{"postgres", "postmaster", "edb-postgres"}

// dataDirectory returns the data directory of the cluster that a process belongs to: every process of a cluster has it
// as its working directory.
func dataDirectory(procDir string, pid int) (dirID, bool) {
	if !slices.Contains(programs, filesystem.Proc(procDir).Command(pid)) {
		return dirID{}, false
	}
	dir := filepath.Join(procDir, strconv.Itoa(pid), "cwd")
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return dirID{}, false
	}
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil {
		return dirID{}, false
	}
	return dirID{filesystem.DevOf(st.Dev), st.Ino}, true
}

// newCluster describes the cluster that these processes belong to. The first of them is that whose parent is none of
// them.
func newCluster(procDir string, processes []process) (Cluster, error) {
	pids := map[int]bool{}
	for _, p := range processes {
		pids[p.pid] = true
	}
	first := slices.IndexFunc(processes, func(p process) bool { return !pids[p.parent] })
	if first < 0 {
		return Cluster{}, os.ErrNotExist
	}
	c := Cluster{PID: processes[first].pid}
	dir := filepath.Join(procDir, strconv.Itoa(c.PID))
	c.Unit = filesystem.Proc(procDir).Unit(c.PID)
	var err error
	if c.Data, err = os.Readlink(filepath.Join(dir, "cwd")); err != nil {
		return c, err
	}
	version, err := os.ReadFile(filepath.Join(dir, "cwd/PG_VERSION"))
	if err != nil {
		return c, err
	}
	c.Version = strings.TrimSpace(string(version))
	for pid := range maps.Keys(pids) {
		c.addTask(taskOf(filepath.Join(procDir, strconv.Itoa(pid))))
	}
	return c, c.addParts(dir)
}

// taskOf returns what a process of a cluster shows as its task. The title is "postgres: archiver last was ..." since
// version 11, with the cluster's name first if it has one, and "postgres: archiver process ..." before.
func taskOf(dir string) string {
	title, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	text := strings.Trim(string(title), "\x00 ")
	_, task, found := strings.Cut(text, "postgres: ")
	if !found {
		return ""
	}
	if name, after, found := strings.Cut(task, ": "); found && !strings.Contains(name, " ") {
		return after
	}
	return task
}

func (c *Cluster) addTask(task string) {
	switch {
	case isArchiver(task):
		c.Archives = true
	case strings.HasPrefix(task, "walsender "), strings.HasPrefix(task, "wal sender process "):
		c.Standbys++
	}
}

// isArchiver is true for the task of the process that archives WAL. The word alone could also be the name of a user.
func isArchiver(task string) bool {
	words := strings.Fields(task)
	if len(words) == 0 || words[0] != "archiver" {
		return false
	}
	return len(words) == 1 || slices.Contains([]string{"process", "archiving", "last", "failed"}, words[1])
}

// directories are those of a data directory that an administrator may have moved to another volume, by a symbolic link
// or a mount, and without which a cluster cannot be used. The two with the old names are of versions before 10.
var directories = []string{
	"base", "global", "pg_wal", "pg_xlog", "pg_xact", "pg_clog", "pg_multixact", "pg_subtrans", "pg_commit_ts",
	"pg_twophase", "pg_logical", "pg_replslot", "pg_tblspc",
}

// addParts adds the data directory, and each directory and tablespace of it that lies on another file system. dir is
// the directory of a process of the cluster in /proc.
func (c *Cluster) addParts(dir string) error {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	root, err := unix.Open(filepath.Join(dir, "root"), flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	data, err := unix.Open(filepath.Join(dir, "cwd"), flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(data)
	if err := c.addPart("data", data); err != nil {
		return err
	}
	tablespaces, err := os.ReadDir(filepath.Join(dir, "cwd/pg_tblspc"))
	if err != nil {
		return err
	}
	what := map[string]string{}
	names := slices.Clone(directories)
	for _, t := range tablespaces {
		name := "pg_tblspc/" + t.Name()
		what[name], names = "tablespace "+t.Name(), append(names, name)
	}
	for _, name := range names {
		part, err := openPart(root, data, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		err = c.addPart(cmp.Or(what[name], name), part)
		unix.Close(part)
		if err != nil {
			return err
		}
	}
	return nil
}

// openPart opens a directory of the data directory, which may be a symbolic link. An absolute link means a path below
// the root directory of the cluster's processes, which in a container is another one than ours.
func openPart(root, data int, name string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(data, name, target)
	if err != nil || n == 0 || target[0] != '/' {
		return unix.Openat(data, name, flags, 0)
	}
	// The links that follow are resolved below that directory, too.
	how := unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT}
	return filesystem.Openat2(root, string(target[:n]), how)
}

// addPart adds an open directory, unless it lies on the file system of the data directory.
func (c *Cluster) addPart(what string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	dev := filesystem.DevOf(st.Dev)
	if len(c.Parts) > 0 && c.Parts[0].Dev == dev {
		return nil
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	c.Parts = append(c.Parts, Part{what, path, dev})
	return nil
}
