package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const socketPrefix = "socket:["

// owner is a process that has a socket, and the mounts that it sees.
type owner struct {
	pid   int
	space *namespace
}

func (s *scan) owned(socket string, pid int, space *namespace) {
	if _, known := s.owners[socket]; !known {
		s.owners[socket] = owner{pid, space}
	}
}

// network remembers a process of each network namespace: each has its own list of sockets.
func (s *scan) network(pid int) {
	name, err := os.Readlink(s.proc.path(pid, "ns/net"))
	if _, known := s.nets[name]; err == nil && !known {
		s.nets[name] = pid
	}
}

// sockets finds unix sockets that are bound to a file on one of the devices: they keep its file system open, and no
// descriptor shows the file (unix(7)).
func (s *scan) sockets() {
	for _, pid := range s.nets {
		data, _ := os.ReadFile(s.proc.path(pid, "net/unix"))
		for line := range strings.Lines(string(data)) {
			if inode, path, ok := boundSocket(line); ok {
				s.socket(inode, path)
			}
		}
	}
}

// boundSocket parses a line of /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path. Abstract names, which
// begin with @, are no files.
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

// socket notes a socket that is bound to a file on one of the devices. The path is as its process wrote it, and seen
// from there. One that no process has is on its way from one to another.
func (s *scan) socket(inode, path string) {
	by, known := s.owners[socketPrefix+inode+"]"]
	if !known {
		by = owner{s.self, &namespace{mounts: s.mounts}}
	}
	if !strings.HasPrefix(path, "/") {
		dir, err := os.Readlink(s.proc.path(by.pid, "cwd"))
		if err != nil || !known {
			return
		}
		path = filepath.Join(dir, path)
	}
	m, ok := holding(by.space.mounts, path)
	if ok && mayHang(m.Type) && !s.wanted(m.Dev) {
		return
	}
	on, _, err := s.stat(s.proc.path(by.pid, "root") + path)
	if err != nil && ok { // its file was removed
		on = m.Dev
	}
	if !s.wanted(on) {
		return
	}
	h := Holder{Kind: "process", How: "socket", Path: path, Dev: on, Namespace: by.space.name}
	if known {
		h.PID, h.Command, h.Unit = by.pid, s.proc.Command(by.pid), s.proc.Unit(by.pid)
	} else {
		h.Kind = "socket"
	}
	same := func(o Holder) bool { return o.How == "socket" && o.PID == h.PID && o.Path == h.Path }
	if i := slices.IndexFunc(s.found, same); i >= 0 {
		s.found[i].More++ // a connection to it has its name, too
		return
	}
	s.found = append(s.found, h)
}
