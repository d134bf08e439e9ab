package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const socketPrefix = "socket:["

// socketOwner is a process that has a socket open, and the mount namespace in which it lives.
type socketOwner struct {
	pid   int
	space *namespace
}

func (s *scan) rememberSocketOwner(socket string, pid int, space *namespace) {
	if _, known := s.socketOwners[socket]; !known {
		s.socketOwners[socket] = socketOwner{pid, space}
	}
}

// rememberNetNamespace remembers one process for each network namespace, because each of them has its own list of
// sockets.
func (s *scan) rememberNetNamespace(pid int) {
	name, err := os.Readlink(s.proc.path(pid, "ns/net"))
	if _, known := s.netNamespaces[name]; err == nil && !known {
		s.netNamespaces[name] = pid
	}
}

// findSockets finds unix sockets that are bound to a file on one of the devices. They keep its file system open, and no
// descriptor in /proc shows the file (unix(7)).
func (s *scan) findSockets() {
	for _, pid := range s.netNamespaces {
		data, _ := os.ReadFile(s.proc.path(pid, "net/unix"))
		for line := range strings.Lines(string(data)) {
			if inode, path, ok := boundSocket(line); ok {
				s.noteSocket(inode, path)
			}
		}
	}
}

// boundSocket parses a line of /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path. It returns false for a
// socket that is not bound to a file: abstract names begin with @.
func boundSocket(line string) (inode, path string, ok bool) {
	rest := strings.TrimSuffix(line, "\n")
	for range 7 {
		inode, rest, ok = strings.Cut(strings.TrimLeft(rest, " "), " ")
		if !ok {
			return "", "", false
		}
	}
	return inode, rest, rest != "" && rest[0] != '@' && strings.Trim(inode, "0123456789") == ""
}

// noteSocket notes a socket that is bound to a file on one of the devices. path is as the process wrote it in bind(2),
// and is seen from that process. A socket that no process has open is being sent from one process to another.
func (s *scan) noteSocket(inode, path string) {
	owner, hasOwner := s.socketOwners[socketPrefix+inode+"]"]
	if !hasOwner {
		owner = socketOwner{s.self, &namespace{mounts: s.mounts}}
	}
	if !strings.HasPrefix(path, "/") {
		dir, err := os.Readlink(s.proc.path(owner.pid, "cwd"))
		if err != nil || !hasOwner {
			return
		}
		path = filepath.Join(dir, path)
	}
	m, ok := holdingByName(owner.space.mounts, path)
	if ok && mayHang(m.Type) && !s.isWanted(m.Dev) {
		return
	}
	on, _, err := s.stat(s.proc.path(owner.pid, "root") + path)
	if err != nil && ok { // the socket's file was removed
		on = m.Dev
	}
	if !s.isWanted(on) {
		return
	}
	h := Holder{Kind: "process", How: "socket", Path: path, Dev: on, Namespace: owner.space.name}
	if hasOwner {
		h.PID, h.Command, h.Unit = owner.pid, s.proc.Command(owner.pid), s.proc.Unit(owner.pid)
	} else {
		h.Kind = "socket"
	}
	same := func(o Holder) bool { return o.How == "socket" && o.PID == h.PID && o.Path == h.Path }
	if i := slices.IndexFunc(s.found, same); i >= 0 {
		s.found[i].More++ // a connection to the socket is listed with the same path
		return
	}
	s.found = append(s.found, h)
}
