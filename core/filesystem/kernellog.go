package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog reads what the kernel logs from the moment at which it was opened (linux,
// Documentation/ABI/testing/dev-kmsg). mount(8) gets only an error number from the kernel, and refers to dmesg(1) for
// the cause.
type kernelLog struct {
	fd int // -1: the log cannot be read
}

// Properties of the kernel's log, and limits for reading it.
const (
	kmsgPath       = "/dev/kmsg"
	maxRecordsRead = 512 // a broken disk causes many records
	maxRecordsKept = 3
	recordSize     = 8 << 10
	warningLevel   = 4 // KERN_WARNING; higher numbers are less severe (syslog(2))
)

// openKernelLog opens the kernel's log behind its last record, so that only later records are read.
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

// messagesAbout returns the first warnings and errors about a device, given by its name in the kernel, or about a type
// of file system. It returns each text once, and at most maxRecordsKept of them.
func (k kernelLog) messagesAbout(device, fstype string) []string {
	var messages []string
	buffer := make([]byte, recordSize)
	for n := 0; k.fd >= 0 && n < maxRecordsRead && len(messages) < maxRecordsKept; n++ {
		read, err := unix.Read(k.fd, buffer)
		if err == unix.EPIPE || err == unix.EINTR {
			continue // EPIPE: the next records were overwritten; the next read returns the oldest one left
		}
		if err != nil || read <= 0 {
			break
		}
		for record := range strings.Lines(string(buffer[:read])) {
			text, ok := parseWarning(record)
			if ok && isAbout(text, device, fstype) && !slices.Contains(messages, text) {
				messages = append(messages, text)
			}
		}
	}
	return messages
}

// parseWarning parses one record, "level and facility,number,time,flags;text", and returns its text. It returns false
// if the record is less severe than a warning.
func parseWarning(record string) (string, bool) {
	head, text, ok := strings.Cut(strings.TrimSpace(record), ";")
	first, _, _ := strings.Cut(head, ",")
	priority, err := strconv.Atoi(first)
	const levels = 8
	return text, ok && err == nil && priority%levels <= warningLevel
}

// isAbout reports whether a line is about a device, as "XFS (dm-3): …" is about dm-3, or about a type of file system.
// Before the kernel has looked at the device, a line begins with the type only: "xfs: Unknown parameter 'x'".
func isAbout(text, device, fstype string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ():,[]", r) })
	if device != "" && slices.Contains(words, device) {
		return true
	}
	start, _, ok := strings.Cut(strings.ToLower(text), ": ")
	return ok && fstype != "" && (start == fstype || start == fstype+"-fs")
}

// kernelName returns a device's name in the kernel's messages, such as dm-3, or an empty string if path is no block
// device.
func kernelName(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	target, err := os.Readlink(blockDir("/sys", DevOf(st.Rdev)))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}
