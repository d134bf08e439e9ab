package service

import (
	"os"

	"golang.org/x/sys/unix"
)

// Notify sends systemd a message about the service that this process runs in, such as EXTEND_TIMEOUT_USEC=1000000
// (sd_notify(3)). It does nothing if the process is not in a service that may send such messages. Its error is that of
// the system call.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// A path that begins with @ is an abstract address.
	err = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: path})
	return os.NewSyscallError("sendto", err)
}
