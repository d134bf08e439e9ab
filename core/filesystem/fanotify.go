package filesystem

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fanotifyLink is what the link of an fanotify descriptor in /proc/PID/fd points to (fanotify(7)).
const fanotifyLink = "anon_inode:[fanotify]"

// fileIDFlags are the flags of fanotify_init(2) with which events identify files by number, and so keep no file open.
const fileIDFlags = unix.FAN_REPORT_FID | unix.FAN_REPORT_DIR_FID

// A process that reads its events, even slowly, is not stuck. To tell, its queue is checked several times.
const (
	queueChecks = 3
	queuePause  = 100 * time.Millisecond
)

// checkFanotify notes a process that watches one of the devices by fanotify and does not read its events: each unread
// event keeps a file open. A process that watches and reads its events holds nothing.
func (s *scan) checkFanotify(space *namespace, pid int, task, fd string, note func(how, path string, dev Dev)) {
	data, _ := os.ReadFile(filepath.Join(task, "fdinfo", fd))
	dev, path, ok := s.markedDev(space, string(data))
	fdNumber, err := strconv.Atoi(fd)
	if !ok || err != nil || !s.isStuck(pid, fdNumber) {
		return
	}
	note("fanotify", path, dev)
}

// isStuck reports whether a process reads nothing from its fanotify descriptor while events wait there.
func (s *scan) isStuck(pid, fd int) bool {
	last := 0
	for check := range queueChecks {
		if check > 0 {
			time.Sleep(queuePause)
		}
		bytes := s.unreadBytes(pid, fd)
		if bytes == 0 || bytes < last {
			return false
		}
		last = bytes
	}
	return true
}

// markedDev returns one of the wanted devices on which the fanotify group of an fdinfo file has a mark, and the path
// where that device is mounted (proc_pid_fdinfo(5)).
func (s *scan) markedDev(space *namespace, fdinfo string) (dev Dev, path string, ok bool) {
	for line := range strings.Lines(fdinfo) {
		values := map[string]string{}
		for _, field := range strings.Fields(line) {
			key, value, _ := strings.Cut(field, ":")
			values[key] = value
		}
		if flags, err := strconv.ParseUint(values["flags"], 16, 32); err == nil && flags&fileIDFlags != 0 {
			return Dev{}, "", false
		}
		if id, err := strconv.ParseInt(values["mnt_id"], 16, 32); err == nil && strings.HasPrefix(line, "fanotify ") {
			m, _ := byID(space.mounts, int(id))
			dev, path = m.Dev, m.Point
		} else if kernelDev, err := strconv.ParseUint(values["sdev"], 16, 32); err == nil {
			dev = Dev{uint32(kernelDev >> 20), uint32(kernelDev & (1<<20 - 1))} // encoded as in the kernel, not as in stat(2)
		} else {
			continue
		}
		if s.isWanted(dev) {
			if on := On(space.mounts, dev); path == "" && len(on) > 0 {
				path = on[0].Point
			}
			return dev, path, true
		}
	}
	return Dev{}, "", false
}

// unreadEventBytes returns how many bytes wait to be read from a descriptor of another process. It returns 0 if that
// cannot be found out.
func unreadEventBytes(pid, fd int) int {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(pidfd)
	duplicate, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(duplicate)
	bytes, err := unix.IoctlGetInt(duplicate, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return bytes
}
