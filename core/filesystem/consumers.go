package filesystem

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// swaps finds swap files on the devices and swap on the devices themselves.
func (s *scan) swaps() {
	data, err := os.ReadFile(string(s.proc) + "/swaps")
	if err != nil {
		return // a kernel without swap
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		if path := unescape(name); strings.HasPrefix(path, "/") {
			s.file(Holder{Kind: "swap", How: "swap", Path: path}, path)
		}
	}
}

// loops finds loop devices whose file is on one of the devices.
func (s *scan) loops() {
	files, _ := filepath.Glob(s.sys + "/block/loop*/loop/backing_file")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		loop := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		// The file may be seen in another namespace only, or be hidden by what was mounted since.
		if on, _, ok := s.loopOf(loop); ok && s.wanted(on) {
			s.found = append(s.found, Holder{Kind: "loop", How: "loop", Path: loop, Dev: on})
			continue
		}
		s.file(Holder{Kind: "loop", How: "loop", Path: loop}, strings.TrimSuffix(string(data), "\n"))
	}
}

// LoopFile asks a loop device which device its file is on, and, where that file is a device itself, which one that is.
func LoopFile(node string) (on, is Dev, ok bool) {
	f, err := os.Open(node)
	if err != nil {
		return Dev{}, Dev{}, false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return Dev{}, Dev{}, false
	}
	return devOf(info.Device), devOf(info.Rdevice), true
}

// exports finds directories that NFS exports: the kernel keeps those open that a client has asked for, and may open
// the others at any moment.
func (s *scan) exports() {
	active, err := os.ReadFile(string(s.proc) + "/fs/nfsd/exports")
	if err != nil {
		return // no NFS server in the kernel
	}
	all, _ := os.ReadFile(s.etab)
	seen := map[string]bool{}
	for line := range strings.Lines(string(active) + string(all)) { // directory, clients: exports(5)
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "/") || seen[fields[0]] {
			continue
		}
		seen[fields[0]] = true
		path := unescape(fields[0])
		s.file(Holder{Kind: "export", How: "nfs", Path: path, Unit: "nfs-server.service"}, path)
	}
}

// served are the files in which the kernel's own servers of block devices name what they serve.
var served = []struct{ how, glob string }{
	{"lio", "kernel/config/target/core/*/*/udev_path"},
	{"nvmet", "kernel/config/nvmet/subsystems/*/namespaces/*/device_path"},
}

// targets finds files and devices that are served as SCSI or NVMe disks.
func (s *scan) targets() {
	for _, server := range served {
		files, _ := filepath.Glob(filepath.Join(s.sys, server.glob))
		for _, file := range files {
			data, _ := os.ReadFile(file)
			if path := strings.TrimSpace(string(data)); strings.HasPrefix(path, "/") {
				s.file(Holder{Kind: "target", How: server.how, Path: path}, path)
			}
		}
	}
}

// file notes what is kept open by the kernel through a file. A deleted file
// has only its name left: the mount that held it then tells the device, also one that others are mounted over now.
func (s *scan) file(h Holder, path string) {
	m, ok := holding(s.mounts, path)
	if ok && mayHang(m.Type) {
		return
	}
	on, is, err := s.stat(path)
	if err != nil && ok {
		on = s.beneath(path, m)
	}
	if !s.wanted(on) {
		on = is
	}
	if s.wanted(on) {
		h.Dev = on
		s.found = append(s.found, h)
	}
}

// beneath returns the device of the mount that held a path that is not there any more: of top, or of a wanted one
// below it.
func (s *scan) beneath(path string, top Mount) Dev {
	for _, m := range s.mounts {
		if s.wanted(m.Dev) && under(path, m.Point) {
			return m.Dev
		}
	}
	return top.Dev
}
