package lvm

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Mapping is what device-mapper maps a device to.
type Mapping struct {
	Major, Minor int
	Table        []Target // the live table
	Suspended    bool
	Prepared     bool // another table is loaded, which the next resume makes the live one
}

// Mapper changes device-mapper's devices, which it takes by their names. Its
// faults name the device and the cause; one that does not exist is not_found.
type Mapper interface {
	Mapping(device string) (Mapping, error)

	// Load prepares a table, which the next resume makes the live one.
	Load(device string, table []Target) error

	// Clear drops the prepared table. Without one it changes nothing.
	Clear(device string) error

	// Remove removes a device that nothing has open; busy if something has.
	Remove(device string) error

	// Blank overwrites the first size bytes of a device with zeros. They are on
	// the disk when it returns. size is a multiple of 4096.
	Blank(device string, size int) error

	// Suspend, Resume, Message, Held and Prepared return calls that are made later.
	// The calls ask for no memory and open no file, so they may be made while the
	// volume that holds this program, or its swap space, is suspended.
	//
	// A suspend waits for the I/O that is under way, and freezes the file system
	// that is mounted on the device. A signal ends the wait with unix.EINTR, and
	// nothing is suspended then. A resume makes a prepared table live; of a device
	// that is not suspended and has none it changes nothing. Held tells whether
	// the device is suspended, Prepared whether it has a prepared table. A message
	// tells the device's target what to do.
	Suspend(device string) func() error
	Resume(device string) func() error
	Message(device, text string) func() error
	Held(device string) func() (bool, error)
	Prepared(device string) func() (bool, error)

	Close() error
}

// OpenMapper opens this host's device-mapper. It needs root (not_root).
func OpenMapper() (Mapper, error) {
	control, err := os.OpenFile(controlNode, os.O_RDWR, 0)
	if err != nil {
		return nil, fault.New(fault.Of(err).Code, "open device-mapper: %w", err)
	}
	return &mapper{control}, nil
}

const controlNode = "/dev/mapper/control"

// mapper is the Mapper of this host (linux/dm-ioctl.h).
type mapper struct{ control *os.File }

func (m *mapper) Close() error { return m.control.Close() }

func (m *mapper) Mapping(device string) (Mapping, error) {
	answer, err := ask(m.control, unix.DM_TABLE_STATUS, device, unix.DM_NOFLUSH_FLAG|unix.DM_STATUS_TABLE_FLAG)
	if err != nil {
		return Mapping{}, deviceFault("table", device, err)
	}
	d, err := answer.device()
	if err != nil {
		return Mapping{}, fault.New(fault.Internal, "table of %s: %w", device, err)
	}
	return Mapping{
		Major: d.Major, Minor: d.Minor, Table: d.Targets, Suspended: d.Suspended,
		Prepared: answer.Flags&unix.DM_INACTIVE_PRESENT_FLAG != 0,
	}, nil
}

func (m *mapper) Load(device string, table []Target) error {
	c := m.call(unix.DM_TABLE_LOAD, device, 0, encodeTable(table)...)
	c.head().Target_count = uint32(len(table))
	return deviceFault("load a table into", device, c.do())
}

func (m *mapper) Clear(device string) error {
	return deviceFault("clear the prepared table of", device, m.call(unix.DM_TABLE_CLEAR, device, 0).do())
}

func (m *mapper) Remove(device string) error {
	return deviceFault("remove", device, m.call(unix.DM_DEV_REMOVE, device, 0).do())
}

// Blank goes around the page cache: what is cached of the device's old content
// must not be written over the zeros later.
func (m *mapper) Blank(device string, size int) error {
	mapping, err := m.Mapping(device)
	if err != nil {
		return err
	}
	node := filepath.Join("/dev/mapper", device)
	fd, err := unix.Open(node, unix.O_WRONLY|unix.O_DIRECT|unix.O_SYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.New(fault.Internal, "open %s: %w", node, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fault.New(fault.Internal, "%s: %w", node, err)
	}
	if unix.Major(st.Rdev) != uint32(mapping.Major) || unix.Minor(st.Rdev) != uint32(mapping.Minor) {
		return fault.New(fault.Internal, "%s is not device %d:%d", node, mapping.Major, mapping.Minor).
			WithHint("udev made it for another device: udevadm trigger --subsystem-match=block makes it anew")
	}
	zeros, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fault.New(fault.Internal, "memory to blank %s: %w", device, err)
	}
	defer unix.Munmap(zeros)
	if n, err := unix.Pwrite(fd, zeros, 0); err != nil || n != size {
		return fault.New(fault.Internal, "blank %s: wrote %d of %d bytes: %w", device, n, size, err)
	}
	return nil
}

func (m *mapper) Suspend(device string) func() error {
	return m.call(unix.DM_DEV_SUSPEND, device, unix.DM_SUSPEND_FLAG).again
}

func (m *mapper) Resume(device string) func() error {
	// Where a table is prepared, the kernel suspends the device itself before it
	// swaps the tables: without freezing what is mounted on it, and without waiting
	// for I/O, which goes on with the new table.
	return m.call(unix.DM_DEV_SUSPEND, device, unix.DM_SKIP_LOCKFS_FLAG|unix.DM_NOFLUSH_FLAG).again
}

func (m *mapper) Message(device, text string) func() error {
	const firstSector = "\x00\x00\x00\x00\x00\x00\x00\x00" // of the target that is meant
	return m.call(unix.DM_TARGET_MSG, device, 0, []byte(firstSector+text+"\x00")...).again
}

func (m *mapper) Held(device string) func() (bool, error) {
	return m.flag(device, unix.DM_SUSPEND_FLAG)
}

func (m *mapper) Prepared(device string) func() (bool, error) {
	return m.flag(device, unix.DM_INACTIVE_PRESENT_FLAG)
}

// flag returns a call that asks whether the device has a flag now.
func (m *mapper) flag(device string, flag uint32) func() (bool, error) {
	c := m.call(unix.DM_DEV_STATUS, device, 0)
	return func() (bool, error) {
		err := c.again()
		return c.head().Flags&flag != 0, err
	}
}

// call is an ioctl with all that it needs in memory.
type call struct {
	control *os.File
	fd      uintptr
	request uintptr
	first   unix.DmIoctl // the header to begin with: the kernel writes its answer over it
	buffer  []byte
}

func (m *mapper) call(request uintptr, device string, flags uint32, data ...byte) *call {
	buffer := make([]byte, unix.SizeofDmIoctl+len(data))
	c := &call{control: m.control, fd: m.control.Fd(), request: request, buffer: buffer}
	copy(c.buffer[unix.SizeofDmIoctl:], data)
	h := c.head()
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	h.Data_size, h.Data_start, h.Flags = uint32(len(c.buffer)), unix.SizeofDmIoctl, flags
	copy(h.Name[:len(h.Name)-1], device)
	c.first = *h
	return c
}

func (c *call) head() *unix.DmIoctl { return (*unix.DmIoctl)(unsafe.Pointer(&c.buffer[0])) }

// again makes the call once, as if for the first time.
func (c *call) again() error {
	*c.head() = c.first
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.fd, c.request, uintptr(unsafe.Pointer(&c.buffer[0])))
	runtime.KeepAlive(c.control)
	if errno != 0 {
		return errno
	}
	return nil
}

// do makes the call, also when a signal interrupts it.
func (c *call) do() error {
	c.first = *c.head()
	for {
		if err := c.again(); err != unix.EINTR {
			return err
		}
	}
}

// encodeTable writes targets as DM_TABLE_LOAD reads them: each begins at a
// multiple of eight bytes and says how far the next one is.
func encodeTable(table []Target) []byte {
	var out []byte
	for _, t := range table {
		params := strings.Join(t.Args, " ") + "\x00"
		size := (unix.SizeofDmTargetSpec + len(params) + 7) / 8 * 8
		spec := make([]byte, size)
		binary.NativeEndian.PutUint64(spec[0:], uint64(t.Start))
		binary.NativeEndian.PutUint64(spec[8:], uint64(t.Length))
		binary.NativeEndian.PutUint32(spec[20:], uint32(size))
		copy(spec[24:39], t.Type)
		copy(spec[unix.SizeofDmTargetSpec:], params)
		out = append(out, spec...)
	}
	return out
}

func deviceFault(what, device string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENXIO):
		return fault.New(fault.NotFound, "%s %s: there is no such device", what, device)
	case errors.Is(err, unix.EBUSY):
		return fault.New(fault.Busy, "%s %s: %w", what, device, err)
	}
	return fault.New(fault.CommandFailed, "%s %s: %w", what, device, err)
}
