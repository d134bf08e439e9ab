package service

import (
	"os"

	"golang.org/x/sys/unix"
)

// Notify tells systemd something of the service we run in, such as
// EXTEND_TIMEOUT_USEC=1000000 (sd_notify(3)). Outside of a service that may tell
// it does nothing.
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
	err = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: path}) // @… is an abstract name
	return os.NewSyscallError("sendto", err)
}
