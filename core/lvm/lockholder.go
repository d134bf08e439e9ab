package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// lockFiles are LVM's lock files on this host: V_ and the name for a volume group, P_global and P_orphans for the rest
// (file_locking.c). An LVM command locks them with flock(2), shared if it only reads.
type lockFiles struct {
	dir       string
	procLocks string // as /proc/locks, which lists the locks of files with their processes (proc_locks(5))
}

// hostLocks are the lock files that LVM uses unless lvm.conf names another directory.
var hostLocks = lockFiles{dir: lockDir, procLocks: "/proc/locks"}

// auxSuffix ends the name of the lock that a command takes first, for the time of its wait for the lock itself. So a
// command that reads a group also waits where another one waits to change it.
const auxSuffix = ":aux"

// explainTimeout gives err the code locked if err says that a command which only reads has reached its limit, and
// another program holds a lock of LVM for which that command waits.
func (files lockFiles) explainTimeout(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	paths := files.held()
	if len(paths) == 0 {
		return err
	}
	var held []string
	for _, path := range paths {
		held = append(held, fmt.Sprintf("%s, %s%s", path, nameOfLock(path), files.holders(path)))
	}
	return fault.New(fault.Locked, "%w; another LVM command holds %s", err, strings.Join(held, "; ")).
		WithHint("look at that command (fuser -v %s): if it asks something, answer it or end it with kill, but not with "+
			"kill -9 while it changes volumes; then run this again", strings.Join(paths, " "))
}

// held returns the paths of the locks that a command which only reads would wait for now, sorted.
func (files lockFiles) held() []string {
	var held []string
	entries, _ := os.ReadDir(files.dir) // without the directory no lock is held there
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, "V_") && !strings.HasPrefix(name, "P_") || !isHeld(filepath.Join(files.dir, name)) {
			continue
		}
		path := filepath.Join(files.dir, strings.TrimSuffix(name, auxSuffix))
		if !slices.Contains(held, path) {
			held = append(held, path)
		}
	}
	return held
}

// isHeld reports whether a process holds the lock so that nobody can share it. It does not create the file.
func isHeld(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK && hasName(f, path)
}

// nameOfLock says in words what a lock file is for.
func nameOfLock(path string) string {
	if group, ok := strings.CutPrefix(filepath.Base(path), "V_"); ok {
		return "the lock of volume group " + group
	}
	return "the " + strings.TrimPrefix(filepath.Base(path), "P_") + " lock"
}

// holders says which processes hold the lock, as words that can follow its name. It is empty if that cannot be found
// out, as when the process that took the lock has ended and a child of it still has the file open.
func (files lockFiles) holders(path string) string {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return ""
	}
	text, _ := os.ReadFile(files.procLocks)
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	var names []string
	for _, pid := range holdersIn(string(text), file) {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			names = append(names, fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), pid))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

// holdersIn returns the processes that hold a lock of flock(2) on a file, from the text of /proc/locks. The file is
// MAJOR:MINOR:INODE as it is written there. Lines with an arrow are of processes that wait for the lock above.
func holdersIn(text, file string) []int {
	var pids []int
	for line := range strings.Lines(text) {
		fields := strings.Fields(line) // 1: FLOCK ADVISORY WRITE 812 00:19:567 0 EOF
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
