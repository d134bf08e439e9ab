package filesystem

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// netNamespace gives a process a network namespace with a list of sockets.
func (sys *fakeSystem) netNamespace(pid int, name, sockets string) {
	sys.t.Helper()
	sys.symlink("net:["+name+"]", sys.scan.proc.path(pid, "ns/net"))
	const head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
	sys.writeFile(sys.scan.proc.path(pid, "net/unix"), head+sockets)
}

// Only the list of sockets shows the file of a bound socket. The list has a further line for each connection to it.
func TestHolderByABoundUnixSocket(t *testing.T) {
	sys := newFakeSystem(t)
	sys.netNamespace(1, "host", `0000000000000000: 00000002 00000000 00010000 0001 01 1001 /dat/run/app one.sock
0000000000000000: 00000003 00000000 00000000 0001 03 1002 /dat/run/app one.sock
0000000000000000: 00000002 00000000 00010000 0001 01 1003 /run/other.sock
0000000000000000: 00000002 00000000 00010000 0001 01 1004 @/dat/abstract
0000000000000000: 00000003 00000000 00000000 0001 03 1005
`)
	dir := sys.addProcess(812, "host", map[string]string{
		"fd/3": "socket:[1001]", "fd/4": "socket:[1002]", "fd/5": "socket:[1003]",
	})
	sys.fileDevs[filepath.Join(dir, "root")+"/dat/run/app one.sock"] = dat
	sys.expect(Holder{
		Kind: "process", How: "socket", Path: "/dat/run/app one.sock",
		PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat, More: 1,
	})
}

// The socket's file may have been removed, its path may be relative, its process may be in another network namespace,
// or no process may have the socket.
func TestHolderByASocketThatIsHardToFind(t *testing.T) {
	sys := newFakeSystem(t)
	sys.netNamespace(1, "host", "0: 00000002 00000000 00010000 0001 01 1001 /dat/removed\n"+
		"0: 00000002 00000000 00010000 0001 01 1009 /dat/sent\n")
	sys.addProcess(812, "host", map[string]string{"fd/3": "socket:[1001]"})
	dir := sys.addProcess(813, "host", map[string]string{"cwd": "/dat/pg", "fd/3": "socket:[2001]"})
	sys.netNamespace(813, "own", "0: 00000002 00000000 00010000 0001 01 2001 ./s\n")
	sys.fileDevs[filepath.Join(dir, "root")+"/dat/pg/s"] = dat
	process := Holder{Kind: "process", How: "socket", Unit: "prog.service", Dev: dat}
	removed, relative := process, process
	removed.Path, removed.PID, removed.Command = "/dat/removed", 812, "prog812"
	relative.Path, relative.PID, relative.Command = "/dat/pg/s", 813, "prog813"
	sys.expect(removed, relative, Holder{Kind: "socket", How: "socket", Path: "/dat/sent", Dev: dat})
}

// fanotify marks alone keep nothing open. Unread events do, but only those that bring an open file with them.
func TestHolderByUnreadFanotifyEvents(t *testing.T) {
	const group = "fanotify flags:0 event-flags:0\n"
	const head = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n"
	for name, c := range map[string]struct {
		fdinfo string
		queue  []int
		holds  bool
	}{
		"stuck":              {group + "fanotify sdev:fd00000 mflags:0 mask:3b ignored_mask:0\n", []int{24, 24, 48}, true},
		"by its mount":       {group + "fanotify mnt_id:MOUNT mflags:0 mask:3b ignored_mask:0\n", []int{24, 24, 24}, true},
		"reads all":          {group + "fanotify sdev:fd00000 mflags:0 mask:3b ignored_mask:0\n", []int{24, 0}, false},
		"reads slowly":       {group + "fanotify sdev:fd00000 mflags:0 mask:3b ignored_mask:0\n", []int{72, 48}, false},
		"numbers for files":  {"fanotify flags:600\nfanotify sdev:fd00000 mflags:0\n", []int{24, 24, 24}, false},
		"another's events":   {group + "fanotify sdev:fd00003 mflags:0 mask:3b ignored_mask:0\n", []int{24, 24, 24}, false},
		"nothing is watched": {group, []int{24, 24, 24}, false},
	} {
		sys := newFakeSystem(t)
		dir := sys.addProcess(812, "host", map[string]string{"fd/9": "anon_inode:[fanotify]"})
		sys.writeFile(filepath.Join(dir, "fdinfo/9"), head+sys.withMountID(c.fdinfo))
		sys.scan.unreadBytes = func(pid, fd int) int {
			if pid != 812 || fd != 9 || len(c.queue) == 0 {
				t.Errorf("%s: asked for %d of pid %d", name, fd, pid)
				return 0
			}
			bytes := c.queue[0]
			c.queue = c.queue[1:]
			return bytes
		}
		if !c.holds {
			sys.expect()
			continue
		}
		sys.expect(Holder{
			Kind: "process", How: "fanotify", Path: "/dat", PID: 812, Command: "prog812", Unit: "prog.service", Dev: dat,
		})
	}
}

func TestHoldersInTheKernel(t *testing.T) {
	sys := newFakeSystem(t)
	sys.writeFile(string(sys.scan.proc)+"/fs/nfsd/exports",
		"# Version 1.1\n# Path Client(Flags) # IPs\n/dat/share\t10.0.0.0/8(rw,sync)\n/srv\t*(ro)\n")
	sys.writeFile(sys.scan.etab, "/dat/share\t10.0.0.0/8(rw,sync)\n/dat/two\\040words\t*(ro)\n")
	sys.writeFile(sys.scan.sys+"/kernel/config/target/core/fileio_0/disk/udev_path", "/dat/lun\n")
	sys.writeFile(sys.scan.sys+"/kernel/config/nvmet/subsystems/x/namespaces/1/device_path", "/dev/vg00/dat\n")
	sys.writeFile(sys.scan.sys+"/block/loop7/loop/backing_file", "/in/a/container\n")
	sys.writeFile(string(sys.scan.proc)+"/swaps", "Filename Type Size Used Priority\n/dat/hidden/swap file 1 0 -2\n")
	over := Mount{ID: 901, Parent: 1, Dev: Dev{0, 77}, Root: "/", Point: "/dat/hidden", Type: "tmpfs"}
	sys.scan.mounts = append(sys.scan.mounts, over)
	sys.scan.loopFile = func(loop string) (on, node Dev, ok bool) { return dat, Dev{}, loop == "/dev/loop7" }
	for _, path := range []string{"/dat/share", "/dat/two words", "/dat/lun"} {
		sys.fileDevs[path] = dat
	}
	sys.fileDevs["/srv"] = Dev{8, 1}
	sys.nodeDevs["/dev/vg00/dat"] = dat
	sys.expect(
		Holder{Kind: "export", How: "nfs", Path: "/dat/share", Unit: "nfs-server.service", Dev: dat},
		Holder{Kind: "export", How: "nfs", Path: "/dat/two words", Unit: "nfs-server.service", Dev: dat},
		Holder{Kind: "target", How: "lio", Path: "/dat/lun", Dev: dat},
		Holder{Kind: "target", How: "nvmet", Path: "/dev/vg00/dat", Dev: dat},
		Holder{Kind: "loop", How: "loop", Path: "/dev/loop7", Dev: dat},
		Holder{Kind: "swap", How: "swap", Path: "/dat/hidden/swap", Dev: dat},
	)
}

func TestHolderByAnEcryptfsLayer(t *testing.T) {
	sys := newFakeSystem(t)
	above := Mount{
		ID: 902, Parent: 22, Dev: Dev{0, 78}, Root: "/", Point: "/home/a", Type: "ecryptfs", Source: "/dat/.ecryptfs/a",
	}
	sys.scan.mounts = append(sys.scan.mounts, above)
	sys.expect(Holder{Kind: "mount", How: "ecryptfs", Path: "/home/a", Dev: dat})
}

// withMountID replaces MOUNT in a text by the ID of the mount of /dat, in hexadecimal as in fdinfo files.
func (sys *fakeSystem) withMountID(text string) string {
	own := sys.scan.ownMounts[0]
	return strings.ReplaceAll(text, "MOUNT", strconv.FormatInt(int64(own.ID), 16))
}
