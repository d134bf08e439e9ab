package filesystem

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Holder is something that keeps a file system or its device open. Of a process
// that holds several files, one is named and the others are counted.
type Holder struct {
	Kind string `json:"kind"` // process, mount, swap, loop, device, export, target
	// How of a process is cwd, root, exe, fd, map, device, socket, fanotify or automount; of a mount mount, bind, overlay
	// or ecryptfs; of an export nfs; of a target lio or nvmet; of a stacked device its kind, such as crypt.
	How       string `json:"how"`
	Path      string `json:"path"`                // the file, mount point or device that shows it
	PID       int    `json:"pid,omitempty"`       // for a mount in another namespace: one process that lives there
	Command   string `json:"command,omitempty"`   // the kernel's name of the process, at most 15 bytes
	Unit      string `json:"unit,omitempty"`      // its systemd unit, see Proc.Unit
	Namespace string `json:"namespace,omitempty"` // of the process's mounts, if it is not ours
	More      int    `json:"more,omitempty"`      // how many more files the process holds
	Dev       Dev    `json:"-"`                   // which of the devices asked for
}

func (h Holder) String() string {
	switch {
	case h.Kind == "process" && h.Unit != "":
		return fmt.Sprintf("%s (pid %d, %s, %s %s)", h.Command, h.PID, h.Unit, h.How, h.Path)
	case h.Kind == "process":
		return fmt.Sprintf("%s (pid %d, %s %s)", h.Command, h.PID, h.How, h.Path)
	case h.PID != 0:
		return fmt.Sprintf("%s %s in the namespace of %s (pid %d, %s)", h.How, h.Path, h.Command, h.PID, h.Unit)
	}
	if h.Unit != "" {
		return fmt.Sprintf("%s %s (%s)", h.How, h.Path, h.Unit)
	}
	return fmt.Sprintf("%s %s", h.How, h.Path)
}

// Named tells of all holders in one line.
func Named(holders []Holder) string {
	var all []string
	for _, h := range holders {
		all = append(all, h.String())
	}
	return strings.Join(all, "; ")
}

// LookedAt says in words what Holders looks at.
const LookedAt = "working directories, roots, programs, open and mapped files, unix sockets and unread fanotify " +
	"events of all processes; mounts in every namespace, overlay and ecryptfs layers, swap, loop devices, NFS exports, " +
	"SCSI and NVMe targets, and devices on top of others"

// Holders returns everything but the mounts in own that keeps a file system on
// the devices, or the devices themselves, open: processes (working directory,
// root, program, open and mapped files, deleted ones too; bound unix sockets,
// fanotify events that are not read), mounts elsewhere and in other namespaces,
// overlays, swap, loop devices, exports and devices stacked on top.
// own are the mounts that the caller is about to unmount itself; the calling
// process does not count.
//
// It is one pass over /proc and takes root, else not_root. It never waits for a
// file server: files on network and FUSE mounts are told by their names.
// The threads of a process are taken to share its files, as they nearly always
// do; the kernel's own count of openers has the last word before a merge.
func Holders(ctx context.Context, devs []Dev, own []Mount) ([]Holder, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	return newScan(devs, own, mounts).within(ctx)
}

// newScan is a search of this server.
func newScan(devs []Dev, own, mounts []Mount) *scan {
	return &scan{
		proc: "/proc", sys: "/sys", etab: "/var/lib/nfs/etab", self: os.Getpid(), devs: devs, own: own, mounts: mounts,
		stat: statDev, loopOf: LoopFile, unread: unreadEvents,
	}
}

// scan is one search for holders.
type scan struct {
	proc   Proc
	sys    string
	etab   string // what exportfs(8) has exported
	self   int
	devs   []Dev
	own    []Mount // will be unmounted by the caller
	mounts []Mount // of our namespace
	stat   func(path string) (on, is Dev, err error)
	loopOf func(node string) (on, is Dev, ok bool) // LoopFile
	unread func(pid, fd int) (bytes int)           // in a process's descriptor

	spaces map[string]*namespace
	owners map[string]owner // of sockets, by "socket:[inode]": the first process found that has one
	nets   map[string]int   // a process of each network namespace
	found  []Holder
}

// within runs the scan in a goroutine of its own, so that a file system that
// hangs all the same costs no more than the caller's limit.
func (s *scan) within(ctx context.Context) ([]Holder, error) {
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	select {
	case err := <-done:
		return s.found, err
	case <-ctx.Done():
		return nil, fault.New(fault.Of(ctx.Err()).Code, "looking for what holds the volumes open: %w", ctx.Err())
	}
}

func (s *scan) run(ctx context.Context) error {
	pids, err := s.proc.pids()
	if err != nil {
		return fault.New(fault.Internal, "list the processes: %w", err)
	}
	ours, err := os.Readlink(s.proc.path(s.self, "ns/mnt"))
	if err != nil {
		return fault.New(fault.Internal, "own mount namespace: %w", err)
	}
	s.spaces = map[string]*namespace{ours: {name: "", mounts: s.mounts}}
	s.owners, s.nets = map[string]owner{}, map[string]int{}
	for _, pid := range pids {
		if ctx.Err() != nil {
			return fault.Of(ctx.Err())
		}
		s.network(pid)
		if pid == s.self {
			continue
		}
		if err := s.process(pid); err != nil {
			return err
		}
	}
	s.sockets()
	s.bindMounts()
	s.foreignMounts()
	s.swaps()
	s.loops()
	s.exports()
	s.targets()
	return s.stacked()
}

func (s *scan) wanted(dev Dev) bool { return slices.Contains(s.devs, dev) }

// process looks at one process. It may end at any moment, which is no error.
func (s *scan) process(pid int) error {
	space, err := s.space(pid)
	if err != nil {
		return err
	}
	first := len(s.found) // of this process: one for each device it holds
	note := func(how, path string, dev Dev) {
		for i := range s.found[first:] {
			if h := &s.found[first+i]; h.Dev == dev {
				h.More++
				return
			}
		}
		s.found = append(s.found, Holder{Kind: "process", How: how, Path: path, Dev: dev, PID: pid, Namespace: space.name})
	}
	for _, task := range s.proc.tasks(pid) {
		for _, how := range []string{"cwd", "root", "exe"} {
			s.link(space, filepath.Join(task, how), how, note)
		}
		fds, _ := names(filepath.Join(task, "fd"))
		for _, fd := range fds {
			link := filepath.Join(task, "fd", fd)
			if target := s.link(space, link, "fd", note); target == fanotifyLink {
				s.watcher(space, pid, task, fd, note)
			} else if strings.HasPrefix(target, socketPrefix) {
				s.owned(target, pid, space)
			}
		}
		s.maps(task, note)
	}
	for i := range s.found[first:] {
		s.found[first+i].Command = s.proc.Command(pid)
		s.found[first+i].Unit = s.proc.Unit(pid)
	}
	return nil
}

// link looks at the file behind a link of /proc. The file is asked, not the
// name: a deleted file, a lazily unmounted file system and another namespace all
// have names that say nothing here. Only where asking may wait for a server the
// name decides. It returns what the link says.
func (s *scan) link(space *namespace, link, how string, note func(how, path string, dev Dev)) (target string) {
	target, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/memfd:") {
		return target // gone, or a socket, a pipe, memory
	}
	if m, ok := holding(space.mounts, target); ok && mayHang(m.Type) && !s.wanted(m.Dev) {
		return target
	}
	on, is, err := s.stat(link)
	switch {
	case err != nil:
	case s.wanted(on):
		note(how, target, on)
	case is != (Dev{}) && s.wanted(is):
		note("device", target, is)
	}
	return target
}

// mayHang tells whether a file system's answers come from a server or from a
// process, which may be away.
func mayHang(fstype string) bool {
	kind, _, _ := strings.Cut(fstype, ".") // fuse.sshfs
	remote := []string{
		"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "fuse", "fuseblk", "lustre", "glusterfs",
		Autofs, "ocfs2", "gfs2", "orangefs", "coda",
	}
	return slices.Contains(remote, kind)
}

// maps finds mapped files, whose descriptors may be closed long since. Each
// line holds the device as "fd:03" (proc_pid_maps(5)).
func (s *scan) maps(task string, note func(how, path string, dev Dev)) {
	data, err := os.ReadFile(filepath.Join(task, "maps"))
	if err != nil {
		return
	}
	for _, dev := range s.devs {
		mark := fmt.Appendf(nil, " %02x:%02x ", dev.Major, dev.Minor)
		if !bytes.Contains(data, mark) {
			continue
		}
		var last string
		for line := range bytes.Lines(data) {
			path, ok := mappedPath(line, mark)
			if ok && path != last { // a library is mapped in several pieces
				note("map", path, dev)
				last = path
			}
		}
	}
}

// mappedPath returns the file of one line of a maps file, if it is on the
// device that mark stands for.
func mappedPath(line, mark []byte) (string, bool) {
	fields := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 6) // address perms offset dev inode path
	if len(fields) < 6 || !bytes.Equal(fields[3], bytes.TrimSpace(mark)) {
		return "", false
	}
	return strings.TrimLeft(string(fields[5]), " "), true
}

// stacked finds devices made of the devices: crypt mappings, RAID, other
// volume groups. Those that were asked for are no holders.
func (s *scan) stacked() error {
	for _, dev := range s.devs {
		above, err := Above(s.sys, dev)
		if err != nil {
			return err
		}
		for _, layer := range above {
			if !s.wanted(layer.Dev) {
				s.found = append(s.found, Holder{Kind: "device", How: layer.Kind, Path: layer.path(), Dev: dev})
			}
		}
	}
	return nil
}
