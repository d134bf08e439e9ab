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

// Mapping is the state of a device-mapper device.
type Mapping struct {
	Major, Minor int
	Table        []Target // the live table
	Suspended    bool
	Prepared     bool // another table is loaded, and the next resume makes it the live one
}

// Mapper changes device-mapper devices, which it takes by their names. Its faults name the device and the cause. A
// device that does not exist is not_found.
type Mapper interface {
	// Mapping returns the state of a device. It flushes nothing and does not wait for a suspended device.
	Mapping(device string) (Mapping, error)

	// Load prepares a table. The next resume makes it the live one.
	Load(device string, table []Target) error

	// Clear drops the prepared table. It changes nothing if there is none.
	Clear(device string) error

	// Remove removes a device. Fault: busy if something has it open.
	Remove(device string) error

	// Blank overwrites the first size bytes of a device with zeros, which are on the disk when Blank returns. size is a
	// multiple of 4096.
	Blank(device string, size int) error

	// Suspend, Resume, Message, Held and Prepared return calls, to be made later. The calls allocate no memory and open no
	// file, so they may be made while the volume that holds this program, or its swap space, is suspended.
	//
	// A suspend waits for the I/O that is under way, and freezes the file system that is mounted on the device. If a
	// signal interrupts the wait, the call returns unix.EINTR and the device is not suspended. A resume makes the prepared
	// table live. It changes nothing if the device is not suspended and has no prepared table. A message tells the
	// device's target what to do. Held asks whether the device is suspended, Prepared whether it has a prepared table.
	Suspend(device string) func() error
	Resume(device string) func() error
	Message(device, text string) func() error
	Held(device string) func() (bool, error)
	Prepared(device string) func() (bool, error)

	// Close closes the Mapper. Calls that it returned must not be made afterwards.
	Close() error
}

// OpenMapper opens this host's device-mapper. Fault: not_root for a caller without root's rights.
func OpenMapper() (Mapper, error) {
	control, err := os.OpenFile(controlNode, os.O_RDWR, 0)
	if err != nil {
		return nil, fault.New(fault.Of(err).Code, "open device-mapper: %w", err)
	}
	return &hostMapper{control}, nil
}

// controlNode is the device node that takes device-mapper's ioctls.
const controlNode = "/dev/mapper/control"

// hostMapper is the Mapper of this host (linux/dm-ioctl.h).
type hostMapper struct{ control *os.File }

func (m *hostMapper) Close() error { return m.control.Close() }

func (m *hostMapper) Mapping(device string) (Mapping, error) {
	answer, err := askDeviceMapper(m.control, unix.DM_TABLE_STATUS, device, unix.DM_NOFLUSH_FLAG|unix.DM_STATUS_TABLE_FLAG)
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

func (m *hostMapper) Load(device string, table []Target) error {
	c := m.newCall(unix.DM_TABLE_LOAD, device, 0, encodeTable(table)...)
	c.header().Target_count = uint32(len(table))
	return deviceFault("load a table into", device, c.do())
}

func (m *hostMapper) Clear(device string) error {
	return deviceFault("clear the prepared table of", device, m.newCall(unix.DM_TABLE_CLEAR, device, 0).do())
}

func (m *hostMapper) Remove(device string) error {
	return deviceFault("remove", device, m.newCall(unix.DM_DEV_REMOVE, device, 0).do())
}

// Blank bypasses the page cache, so that no cached part of the device's old content is written over the zeros later.
func (m *hostMapper) Blank(device string, size int) error {
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
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fault.New(fault.Internal, "%s: %w", node, err)
	}
	if unix.Major(stat.Rdev) != uint32(mapping.Major) || unix.Minor(stat.Rdev) != uint32(mapping.Minor) {
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

func (m *hostMapper) Suspend(device string) func() error {
	return m.newCall(unix.DM_DEV_SUSPEND, device, unix.DM_SUSPEND_FLAG).doOnce
}

func (m *hostMapper) Resume(device string) func() error {
	// If a table is prepared, the kernel itself suspends the device before it swaps the tables. The flags keep it from
	// freezing the mounted file system, and from waiting for I/O, which goes on with the new table.
	return m.newCall(unix.DM_DEV_SUSPEND, device, unix.DM_SKIP_LOCKFS_FLAG|unix.DM_NOFLUSH_FLAG).doOnce
}

func (m *hostMapper) Message(device, text string) func() error {
	const firstSector = "\x00\x00\x00\x00\x00\x00\x00\x00" // selects the target that holds this sector
	return m.newCall(unix.DM_TARGET_MSG, device, 0, []byte(firstSector+text+"\x00")...).doOnce
}

func (m *hostMapper) Held(device string) func() (bool, error) {
	return m.hasFlag(device, unix.DM_SUSPEND_FLAG)
}

func (m *hostMapper) Prepared(device string) func() (bool, error) {
	return m.hasFlag(device, unix.DM_INACTIVE_PRESENT_FLAG)
}

// hasFlag returns a call that asks whether a device has a flag at the moment of the call.
func (m *hostMapper) hasFlag(device string, flag uint32) func() (bool, error) {
	status := m.newCall(unix.DM_DEV_STATUS, device, 0)
	return func() (bool, error) {
		err := status.doOnce()
		return status.header().Flags&flag != 0, err
	}
}

// ioctlCall is an ioctl whose buffer is allocated already, so that making it needs no memory.
type ioctlCall struct {
	control *os.File
	fd      uintptr
	request uintptr
	initial unix.DmIoctl // the header to send: the kernel overwrites the one in buffer with its answer
	buffer  []byte
}

// newCall returns an ioctl about a device, with data after the header.
func (m *hostMapper) newCall(request uintptr, device string, flags uint32, data ...byte) *ioctlCall {
	buffer := make([]byte, unix.SizeofDmIoctl+len(data))
	c := &ioctlCall{control: m.control, fd: m.control.Fd(), request: request, buffer: buffer}
	copy(c.buffer[unix.SizeofDmIoctl:], data)
	header := c.header()
	header.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	header.Data_size, header.Data_start, header.Flags = uint32(len(c.buffer)), unix.SizeofDmIoctl, flags
	copy(header.Name[:len(header.Name)-1], device)
	c.initial = *header
	return c
}

func (c *ioctlCall) header() *unix.DmIoctl { return (*unix.DmIoctl)(unsafe.Pointer(&c.buffer[0])) }

// doOnce makes the call once. It may be called any number of times.
func (c *ioctlCall) doOnce() error {
	*c.header() = c.initial
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.fd, c.request, uintptr(unsafe.Pointer(&c.buffer[0])))
	runtime.KeepAlive(c.control)
	if errno != 0 {
		return errno
	}
	return nil
}

// do makes the call, with the header and data that are in the buffer, and repeats it if a signal interrupts it.
func (c *ioctlCall) do() error {
	c.initial = *c.header()
	for {
		if err := c.doOnce(); err != unix.EINTR {
			return err
		}
	}
}

// encodeTable encodes targets for DM_TABLE_LOAD. Each target begins at a multiple of eight bytes and has the distance
// to the next one.
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

// deviceFault returns the fault of an action on a device that failed with err; nil for nil.
func deviceFault(action, device string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENXIO):
		return fault.New(fault.NotFound, "%s %s: there is no such device", action, device)
	case errors.Is(err, unix.EBUSY):
		return fault.New(fault.Busy, "%s %s: %w", action, device, err)
	}
	return fault.New(fault.CommandFailed, "%s %s: %w", action, device, err)
}
