package lvm

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Device is a device-mapper device, with what the kernel maps each range of it to.
type Device struct {
	Info
	Targets []Target
}

// Kernel returns the device-mapper devices with the given names, or all of them if it is given none, by their names. A
// device that does not exist is left out.
type Kernel func(names ...string) (map[string]Device, error)

// Direct returns a copy of l whose Status and Info ask k instead of running dmsetup. A process takes longer to start
// than to ask its one question, and that time counts while services are down.
func (l *LVM) Direct(k Kernel) *LVM {
	copied := *l
	copied.kernel = k
	return &copied
}

// DeviceMapper is the Kernel of this host. It returns what dmsetup prints, from the same ioctls (linux/dm-ioctl.h). It
// flushes nothing and does not wait for a suspended device. Faults: not_root, internal.
func DeviceMapper(names ...string) (map[string]Device, error) {
	control, err := os.OpenFile(controlNode, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Device{}, nil // the kernel module is not loaded, so there are no devices
	}
	if err != nil {
		return nil, fault.New(fault.Of(err).Code, "ask device-mapper: %w", err)
	}
	defer control.Close()
	if len(names) == 0 {
		list, err := askDeviceMapper(control, unix.DM_LIST_DEVICES, "", unix.DM_NOFLUSH_FLAG)
		if err != nil {
			return nil, fault.New(fault.Internal, "list device-mapper's devices: %w", err)
		}
		names = list.names()
	}
	devices := map[string]Device{}
	for _, name := range names {
		answer, err := askDeviceMapper(control, unix.DM_TABLE_STATUS, name, unix.DM_NOFLUSH_FLAG)
		if errors.Is(err, unix.ENXIO) {
			continue // there is no such device, or it has vanished since the list was made, as at the end of a merge
		}
		if err != nil {
			return nil, fault.New(fault.Internal, "status of %s: %w", name, err)
		}
		if devices[name], err = answer.device(); err != nil {
			return nil, fault.New(fault.Internal, "status of %s: %w", name, err)
		}
	}
	return devices, nil
}

// answer is what an ioctl of device-mapper leaves in its buffer: a header, followed by data.
type answer struct {
	unix.DmIoctl
	data []byte
}

// askDeviceMapper makes an ioctl about one device, or about all of them if name is empty. It repeats the ioctl with a
// larger buffer until the answer fits.
func askDeviceMapper(control *os.File, request uintptr, name string, flags uint32) (answer, error) {
	for size := 4 << 10; ; {
		buffer := make([]byte, size)
		header := (*unix.DmIoctl)(unsafe.Pointer(&buffer[0]))
		header.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
		header.Data_size, header.Data_start = uint32(size), unix.SizeofDmIoctl
		header.Flags = flags
		copy(header.Name[:len(header.Name)-1], name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(header)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return answer{}, errno
		case header.Flags&unix.DM_BUFFER_FULL_FLAG != 0:
			size *= 2
		default:
			return answer{*header, buffer[min(int(header.Data_start), size):]}, nil
		}
	}
}

// names decodes a list of devices. Each entry has the device's number, the distance to the next entry, and the name.
func (a answer) names() []string {
	const headerSize = 12
	var names []string
	for data := a.data; len(data) > headerSize && binary.NativeEndian.Uint64(data) != 0; {
		names = append(names, cString(data[headerSize:]))
		next := int(binary.NativeEndian.Uint32(data[8:]))
		if next <= 0 || next > len(data) {
			break
		}
		data = data[next:]
	}
	return names
}

// device decodes the status or the table of one device. Each target has its range, the offset at which the next target
// begins, its type, and its arguments as text.
func (a answer) device() (Device, error) {
	d := Device{Info: Info{
		UUID: cString(a.Uuid[:]), Major: int(unix.Major(a.Dev)), Minor: int(unix.Minor(a.Dev)),
		Open: int(a.Open_count), Suspended: a.Flags&unix.DM_SUSPEND_FLAG != 0,
	}}
	start := 0
	for range a.Target_count {
		if start < 0 || start+unix.SizeofDmTargetSpec > len(a.data) {
			return d, errors.New("its table ends too early")
		}
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&a.data[start]))
		d.Targets = append(d.Targets, Target{
			Start: int64(spec.Sector_start), Length: int64(spec.Length), Type: cString(spec.Target_type[:]),
			Args: strings.Fields(cString(a.data[start+unix.SizeofDmTargetSpec:])),
		})
		if next := int(spec.Next); next > start {
			start = next
		} else {
			start = len(a.data) // this is the last target, or the offset is invalid: no other target may follow
		}
	}
	return d, nil
}

// cString returns the text before the first zero byte.
func cString(b []byte) string {
	before, _, _ := strings.Cut(string(b), "\x00")
	return before
}

// askKernel returns all devices that l.kernel knows of.
func (l *LVM) askKernel(ctx context.Context) (map[string]Device, error) {
	if ctx.Err() != nil {
		return nil, fault.New(fault.Of(ctx.Err()).Code, "ask device-mapper: %w", ctx.Err())
	}
	return l.kernel()
}
