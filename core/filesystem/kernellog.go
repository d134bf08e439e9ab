package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog reads what the kernel says from the moment it was opened (linux, Documentation/ABI/testing/dev-kmsg).
// mount(8) gets no more than an error number from the kernel, and points to dmesg(1) for the cause.
type kernelLog struct {
	fd int // -1: it cannot be read here, and nothing is known
}

const (
	kmsg           = "/dev/kmsg"
	recordsRead    = 512 // at most: a broken disk says a lot
	recordsKept    = 3
	recordLength   = 8 << 10
	kernelWarnings = 4 // the least grave level that counts (syslog(2))
)

func openKernelLog(path string) kernelLog {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return kernelLog{-1}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return kernelLog{-1}
	}
	return kernelLog{fd}
}

func (k kernelLog) close() {
	if k.fd >= 0 {
		unix.Close(k.fd)
	}
}

// about returns the first warnings and errors of a device, by its name in the kernel, and of a type of file system,
// each once. What other devices have to say is left out.
func (k kernelLog) about(device, fstype string) []string {
	var said []string
	buffer := make([]byte, recordLength)
	for n := 0; k.fd >= 0 && n < recordsRead && len(said) < recordsKept; n++ {
		read, err := unix.Read(k.fd, buffer)
		if err == unix.EPIPE || err == unix.EINTR {
			continue // the oldest were overwritten; the next read goes on behind them
		}
		if err != nil || read <= 0 {
			break
		}
		for record := range strings.Lines(string(buffer[:read])) {
			text, ok := warning(record)
			if ok && concerns(text, device, fstype) && !slices.Contains(said, text) {
				said = append(said, text)
			}
		}
	}
	return said
}

// warning reads one record, "level and facility,number,time,flags;text", and tells whether it is grave enough.
func warning(record string) (string, bool) {
	head, text, ok := strings.Cut(strings.TrimSpace(record), ";")
	first, _, _ := strings.Cut(head, ",")
	priority, err := strconv.Atoi(first)
	const levels = 8
	return text, ok && err == nil && priority%levels <= kernelWarnings
}

// concerns knows a line by the device in it, "XFS (dm-3): …", or, before the kernel has looked at the device, by the
// type of file system at its beginning, "xfs: Unknown parameter 'x'".
func concerns(text, device, fstype string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ():,[]", r) })
	if device != "" && slices.Contains(words, device) {
		return true
	}
	start, _, ok := strings.Cut(strings.ToLower(text), ": ")
	return ok && fstype != "" && (start == fstype || start == fstype+"-fs")
}

// kernelName is a device's name in the kernel's messages, such as dm-3; empty if it has none.
func kernelName(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	dev := Dev{unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))}
	to, err := os.Readlink(blockDir("/sys", dev))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}
