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

// Holder is something that keeps a file system or its device open. For a process that holds several files on one
// device, one file is named and the others are counted.
type Holder struct {
	Kind string `json:"kind"` // process, socket, mount, swap, loop, device, export, target
	// How is, for a process: cwd, root, exe, fd, map, device, socket, fanotify or automount; for a socket: socket; for a
	// mount: mount, bind, overlay or ecryptfs; for swap: swap; for a loop device: loop; for an export: nfs; for a target:
	// lio or nvmet; for a device on top of this one: its kind, such as crypt.
	How       string `json:"how"`
	Path      string `json:"path"`                // the file, mount point or device by which it was found
	PID       int    `json:"pid,omitempty"`       // for a mount in another namespace: a process in it
	Command   string `json:"command,omitempty"`   // the process's name in the kernel, at most 15 bytes
	Unit      string `json:"unit,omitempty"`      // the systemd unit, see Proc.Unit
	Namespace string `json:"namespace,omitempty"` // the mount namespace, if it is not the caller's
	More      int    `json:"more,omitempty"`      // how many more files the process holds on this device
	Dev       Dev    `json:"-"`                   // the one of the given devices that is held
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

// Describe describes all holders in one line.
func Describe(holders []Holder) string {
	var all []string
	for _, h := range holders {
		all = append(all, h.String())
	}
	return strings.Join(all, "; ")
}

// LookedAt says, for messages, what Holders examines.
const LookedAt = "working directories, roots, programs, open and mapped files, unix sockets and unread fanotify " +
	"events of all processes; mounts in every namespace, overlay and ecryptfs layers, swap, loop devices, NFS exports, " +
	"SCSI and NVMe targets, and devices on top of others"

// Holders returns everything that keeps one of the devices, or a file system on it, open, except the mounts in own:
// processes (by working directory, root, program, open and mapped files, deleted files included; by bound unix sockets
// and unread fanotify events), other mounts in this and in other namespaces, overlay and ecryptfs layers, swap, loop
// devices, exports, targets, and devices on top. own are the mounts that the caller is about to unmount. The calling
// process itself is left out.
//
// Holders reads /proc once. It never waits for a file server: for files on network and FUSE mounts it goes by their
// names. It assumes that the threads of a process share its files, as nearly all do; before a merge the kernel's own
// count of openers decides. Faults: not_root if the caller is not root, interrupted or timeout if ctx ends, internal.
func Holders(ctx context.Context, devs []Dev, own []Mount) ([]Holder, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	return newScan(devs, own, mounts).runWithin(ctx)
}

// newScan returns a scan of this server.
func newScan(devs []Dev, own, mounts []Mount) *scan {
	return &scan{
		proc: "/proc", sys: "/sys", etab: "/var/lib/nfs/etab", self: os.Getpid(), devs: devs, ownMounts: own, mounts: mounts,
		stat: statDev, loopFile: LoopFile, unreadBytes: unreadEventBytes,
	}
}

// scan is one search for holders.
type scan struct {
	proc        Proc
	sys         string
	etab        string // the file in which exportfs(8) lists what is exported
	self        int
	devs        []Dev
	ownMounts   []Mount // the caller will unmount these
	mounts      []Mount // in our namespace
	stat        func(path string) (on, node Dev, err error)
	loopFile    func(loop string) (on, node Dev, ok bool) // as LoopFile
	unreadBytes func(pid, fd int) (bytes int)             // as unreadEventBytes

	namespaces    map[string]*namespace
	socketOwners  map[string]socketOwner // by "socket:[inode]": the first process found that has the socket open
	netNamespaces map[string]int         // by name: a process in each network namespace
	found         []Holder
}

// runWithin runs the scan in a goroutine, so that it returns at the end of ctx even if a file system hangs all the
// same.
func (s *scan) runWithin(ctx context.Context) ([]Holder, error) {
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
	pids, err := s.proc.PIDs()
	if err != nil {
		return fault.New(fault.Internal, "list the processes: %w", err)
	}
	ownNamespace, err := os.Readlink(s.proc.path(s.self, "ns/mnt"))
	if err != nil {
		return fault.New(fault.Internal, "own mount namespace: %w", err)
	}
	s.namespaces = map[string]*namespace{ownNamespace: {name: "", mounts: s.mounts}}
	s.socketOwners, s.netNamespaces = map[string]socketOwner{}, map[string]int{}
	for _, pid := range pids {
		if ctx.Err() != nil {
			return fault.Of(ctx.Err())
		}
		s.rememberNetNamespace(pid)
		if pid == s.self {
			continue
		}
		if err := s.scanProcess(pid); err != nil {
			return err
		}
	}
	s.findSockets()
	s.findOurMounts()
	s.findForeignMounts()
	s.findSwaps()
	s.findLoops()
	s.findExports()
	s.findTargets()
	return s.findStacked()
}

func (s *scan) isWanted(dev Dev) bool { return slices.Contains(s.devs, dev) }

// scanProcess finds what one process holds. It is no error if the process ends meanwhile.
func (s *scan) scanProcess(pid int) error {
	space, err := s.namespaceOf(pid)
	if err != nil {
		return err
	}
	first := len(s.found) // index of this process's holders, one for each device
	note := func(how, path string, dev Dev) {
		for i := range s.found[first:] {
			if h := &s.found[first+i]; h.Dev == dev {
				h.More++
				return
			}
		}
		s.found = append(s.found, Holder{Kind: "process", How: how, Path: path, Dev: dev, PID: pid, Namespace: space.name})
	}
	for _, task := range s.proc.taskDirs(pid) {
		for _, how := range []string{"cwd", "root", "exe"} {
			s.checkLink(space, filepath.Join(task, how), how, note)
		}
		fds, _ := dirNames(filepath.Join(task, "fd"))
		for _, fd := range fds {
			link := filepath.Join(task, "fd", fd)
			if target := s.checkLink(space, link, "fd", note); target == fanotifyLink {
				s.checkFanotify(space, pid, task, fd, note)
			} else if strings.HasPrefix(target, socketPrefix) {
				s.rememberSocketOwner(target, pid, space)
			}
		}
		s.scanMaps(task, note)
	}
	for i := range s.found[first:] {
		s.found[first+i].Command = s.proc.Command(pid)
		s.found[first+i].Unit = s.proc.Unit(pid)
	}
	return nil
}

// checkLink examines the file behind a link in /proc, and notes it if it is on one of the devices. It calls stat(2) on
// the link and does not go by the name: for a deleted file, a lazily unmounted file system or a file in another mount
// namespace, the name says nothing about the device. Only where stat might wait for a file server, checkLink goes by
// the name. It returns the target of the link.
func (s *scan) checkLink(space *namespace, link, how string, note func(how, path string, dev Dev)) (target string) {
	target, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/memfd:") {
		return target // the link is gone, or leads to a socket, a pipe or memory
	}
	if m, ok := holdingByName(space.mounts, target); ok && mayHang(m.Type) && !s.isWanted(m.Dev) {
		return target
	}
	on, node, err := s.stat(link)
	switch {
	case err != nil:
	case s.isWanted(on):
		note(how, target, on)
	case node != (Dev{}) && s.isWanted(node):
		note("device", target, node)
	}
	return target
}

// mayHang reports whether the answers of this type of file system come from a server or a process, which may not
// answer.
func mayHang(fstype string) bool {
	kind, _, _ := strings.Cut(fstype, ".") // fuse.sshfs
	remote := []string{
		"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "fuse", "fuseblk", "lustre", "glusterfs",
		Autofs, "ocfs2", "gfs2", "orangefs", "coda",
	}
	return slices.Contains(remote, kind)
}

// scanMaps finds mapped files, which stay open even if their descriptors are closed. Each line of the file maps has the
// device as "fd:03" (proc_pid_maps(5)).
func (s *scan) scanMaps(task string, note func(how, path string, dev Dev)) {
	data, err := os.ReadFile(filepath.Join(task, "maps"))
	if err != nil {
		return
	}
	for _, dev := range s.devs {
		devField := fmt.Appendf(nil, " %02x:%02x ", dev.Major, dev.Minor)
		if !bytes.Contains(data, devField) {
			continue
		}
		var last string
		for line := range bytes.Lines(data) {
			path, ok := mappedPath(line, devField)
			if ok && path != last { // a library has several mappings in a row
				note("map", path, dev)
				last = path
			}
		}
	}
}

// mappedPath returns the file of one line of a maps file, if it is on the device that devField stands for.
func mappedPath(line, devField []byte) (string, bool) {
	fields := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 6) // address perms offset dev inode path
	if len(fields) < 6 || !bytes.Equal(fields[3], bytes.TrimSpace(devField)) {
		return "", false
	}
	return strings.TrimLeft(string(fields[5]), " "), true
}

// findStacked finds devices that are made of the wanted devices: crypt mappings, RAID, other volume groups. A wanted
// device is not a holder of another one.
func (s *scan) findStacked() error {
	for _, dev := range s.devs {
		above, err := Above(s.sys, dev)
		if err != nil {
			return err
		}
		for _, layer := range above {
			if !s.isWanted(layer.Dev) {
				s.found = append(s.found, Holder{Kind: "device", How: layer.Kind, Path: layer.devPath(), Dev: dev})
			}
		}
	}
	return nil
}
