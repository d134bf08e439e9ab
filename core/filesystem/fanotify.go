package filesystem

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fanotifyLink is what a descriptor of fanotify(7) is called.
const fanotifyLink = "anon_inode:[fanotify]"

// byFileID are the flags of fanotify_init(2) with which events name files by their numbers and so keep none open.
const byFileID = unix.FAN_REPORT_FID | unix.FAN_REPORT_DIR_FID

// A process that reads its events, if slowly, is not stuck: its queue is looked at several times.
const (
	queueLooks = 3
	queuePause = 100 * time.Millisecond
)

// watcher notes a process that watches one of the devices by fanotify and does not read its events: each of them
// keeps a file open. One that watches and reads holds nothing.
func (s *scan) watcher(space *namespace, pid int, task, fd string, note func(how, path string, dev Dev)) {
	data, _ := os.ReadFile(filepath.Join(task, "fdinfo", fd))
	dev, path, ok := s.marked(space, string(data))
	number, err := strconv.Atoi(fd)
	if !ok || err != nil || !s.stuck(pid, number) {
		return
	}
	note("fanotify", path, dev)
}

func (s *scan) stuck(pid, fd int) bool {
	last := 0
	for look := range queueLooks {
		if look > 0 {
			time.Sleep(queuePause)
		}
		bytes := s.unread(pid, fd)
		if bytes == 0 || bytes < last {
			return false
		}
		last = bytes
	}
	return true
}

// marked returns one of the devices that the marks of an fdinfo file are on, and where it is mounted
// (proc_pid_fdinfo(5)).
func (s *scan) marked(space *namespace, fdinfo string) (dev Dev, path string, ok bool) {
	for line := range strings.Lines(fdinfo) {
		values := map[string]string{}
		for _, field := range strings.Fields(line) {
			key, value, _ := strings.Cut(field, ":")
			values[key] = value
		}
		if flags, err := strconv.ParseUint(values["flags"], 16, 32); err == nil && flags&byFileID != 0 {
			return Dev{}, "", false
		}
		if id, err := strconv.ParseInt(values["mnt_id"], 16, 32); err == nil && strings.HasPrefix(line, "fanotify ") {
			m, _ := byID(space.mounts, int(id))
			dev, path = m.Dev, m.Point
		} else if number, err := strconv.ParseUint(values["sdev"], 16, 32); err == nil {
			dev = Dev{uint32(number >> 20), uint32(number & (1<<20 - 1))} // the kernel's own number, not stat(2)'s
		} else {
			continue
		}
		if s.wanted(dev) {
			if on := On(space.mounts, dev); path == "" && len(on) > 0 {
				path = on[0].Point
			}
			return dev, path, true
		}
	}
	return Dev{}, "", false
}

// unreadEvents is how many bytes wait to be read in a process's descriptor; 0 if that cannot be told.
func unreadEvents(pid, fd int) int {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(process)
	theirs, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(theirs)
	bytes, err := unix.IoctlGetInt(theirs, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return bytes
}
