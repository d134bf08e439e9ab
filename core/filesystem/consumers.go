package filesystem

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// findSwaps finds swap files on the devices, and devices that are swap space themselves.
func (s *scan) findSwaps() {
	data, err := os.ReadFile(string(s.proc) + "/swaps")
	if err != nil {
		return // a kernel without swap
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		if path := unescape(name); strings.HasPrefix(path, "/") {
			s.noteFile(Holder{Kind: "swap", How: "swap", Path: path}, path)
		}
	}
}

// findLoops finds loop devices whose backing file is on one of the devices.
func (s *scan) findLoops() {
	files, _ := filepath.Glob(s.sys + "/block/loop*/loop/backing_file")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it was detached in the meantime
		}
		loop := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		// The loop device itself is asked first, because the path in backing_file may be valid only in another mount
		// namespace, or something may have been mounted over it since.
		if on, _, ok := s.loopFile(loop); ok && s.isWanted(on) {
			s.found = append(s.found, Holder{Kind: "loop", How: "loop", Path: loop, Dev: on})
			continue
		}
		s.noteFile(Holder{Kind: "loop", How: "loop", Path: loop}, strings.TrimSuffix(string(data), "\n"))
	}
}

// LoopFile asks the loop device at a path for its backing file. It returns the device that holds this file and, if the
// file is a block device itself, the number of that device. It returns false if loop is no loop device in use.
func LoopFile(loop string) (on, node Dev, ok bool) {
	f, err := os.Open(loop)
	if err != nil {
		return Dev{}, Dev{}, false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return Dev{}, Dev{}, false
	}
	return DevOf(info.Device), DevOf(info.Rdevice), true
}

// findExports finds directories that are exported by NFS. The kernel keeps those open that a client has accessed, and
// may open the others at any moment.
func (s *scan) findExports() {
	inKernel, err := os.ReadFile(string(s.proc) + "/fs/nfsd/exports")
	if err != nil {
		return // no NFS server in the kernel
	}
	configured, _ := os.ReadFile(s.etab)
	seen := map[string]bool{}
	for line := range strings.Lines(string(inKernel) + string(configured)) { // a directory and its clients, see exports(5)
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "/") || seen[fields[0]] {
			continue
		}
		seen[fields[0]] = true
		path := unescape(fields[0])
		s.noteFile(Holder{Kind: "export", How: "nfs", Path: path, Unit: "nfs-server.service"}, path)
	}
}

// targetPaths are the files in which the kernel's own SCSI and NVMe servers name the files and devices that they serve.
var targetPaths = []struct{ how, glob string }{
	{"lio", "kernel/config/target/core/*/*/udev_path"},
	{"nvmet", "kernel/config/nvmet/subsystems/*/namespaces/*/device_path"},
}

// findTargets finds files and devices that the kernel serves as SCSI or NVMe disks.
func (s *scan) findTargets() {
	for _, server := range targetPaths {
		files, _ := filepath.Glob(filepath.Join(s.sys, server.glob))
		for _, file := range files {
			data, _ := os.ReadFile(file)
			if path := strings.TrimSpace(string(data)); strings.HasPrefix(path, "/") {
				s.noteFile(Holder{Kind: "target", How: server.how, Path: path}, path)
			}
		}
	}
}

// noteFile adds h to the holders if the file at path, which the kernel keeps open, is on one of the devices or is one
// of them. Of a deleted file only the path is left; then the device is that of the mount that held the path, even if
// something else is mounted over this mount now.
func (s *scan) noteFile(h Holder, path string) {
	m, ok := holdingByName(s.mounts, path)
	if ok && mayHang(m.Type) {
		return
	}
	on, node, err := s.stat(path)
	if err != nil && ok {
		on = s.coveredDev(path, m)
	}
	if !s.isWanted(on) {
		on = node
	}
	if s.isWanted(on) {
		h.Dev = on
		s.found = append(s.found, h)
	}
}

// coveredDev returns the device of the mount that held a path that no longer exists: the device of a mount of one of
// the wanted devices if such a mount is above the path, else that of top, the topmost mount above the path.
func (s *scan) coveredDev(path string, top Mount) Dev {
	for _, m := range s.mounts {
		if s.isWanted(m.Dev) && isUnder(path, m.Point) {
			return m.Dev
		}
	}
	return top.Dev
}
