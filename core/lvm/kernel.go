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

// Device is a device-mapper device: what it is, and what the kernel maps each range of it to.
type Device struct {
	Info
	Targets []Target
}

// Kernel tells of device-mapper devices by their names, of all if none is named. One that is not there is left out.
type Kernel func(names ...string) (map[string]Device, error)

// Direct returns an LVM whose Status and Info ask k, where New's start dmsetup: while services are down, a process that
// takes longer to start than to ask its one question counts.
func (l *LVM) Direct(k Kernel) *LVM {
	direct := *l
	direct.kernel = k
	return &direct
}

// DeviceMapper is the Kernel of this host: what dmsetup prints, from the same ioctls (linux/dm-ioctl.h). Nothing is
// flushed, and a suspended device is not waited for.
func DeviceMapper(names ...string) (map[string]Device, error) {
	control, err := os.OpenFile(controlNode, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Device{}, nil // the module is not loaded: there is no such device
	}
	if err != nil {
		return nil, fault.New(fault.Of(err).Code, "ask device-mapper: %w", err)
	}
	defer control.Close()
	if len(names) == 0 {
		list, err := ask(control, unix.DM_LIST_DEVICES, "", unix.DM_NOFLUSH_FLAG)
		if err != nil {
			return nil, fault.New(fault.Internal, "list device-mapper's devices: %w", err)
		}
		names = list.names()
	}
	devices := map[string]Device{}
	for _, name := range names {
		answer, err := ask(control, unix.DM_TABLE_STATUS, name, unix.DM_NOFLUSH_FLAG)
		if errors.Is(err, unix.ENXIO) {
			continue // there is none, or it vanished in between, as at a merge's end
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

// answer is what an ioctl of device-mapper leaves in its buffer: a header, then data.
type answer struct {
	unix.DmIoctl
	data []byte
}

// ask asks about one device, or of all with an empty name, with as large a buffer as it takes.
func ask(control *os.File, request uintptr, name string, flags uint32) (answer, error) {
	for size := 4 << 10; ; {
		buffer := make([]byte, size)
		head := (*unix.DmIoctl)(unsafe.Pointer(&buffer[0]))
		head.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
		head.Data_size, head.Data_start = uint32(size), unix.SizeofDmIoctl
		head.Flags = flags
		copy(head.Name[:len(head.Name)-1], name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(head)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return answer{}, errno
		case head.Flags&unix.DM_BUFFER_FULL_FLAG != 0:
			size *= 2
		default:
			return answer{*head, buffer[min(int(head.Data_start), size):]}, nil
		}
	}
}

// names reads a list of devices: number, distance to the next entry, name.
func (a answer) names() []string {
	const head = 12
	var names []string
	for data := a.data; len(data) > head && binary.NativeEndian.Uint64(data) != 0; {
		names = append(names, text(data[head:]))
		next := int(binary.NativeEndian.Uint32(data[8:]))
		if next <= 0 || next > len(data) {
			break
		}
		data = data[next:]
	}
	return names
}

// device reads a table's status: for each target its place, the end of what belongs to it, its type and its own words.
func (a answer) device() (Device, error) {
	d := Device{Info: Info{
		UUID: text(a.Uuid[:]), Major: int(unix.Major(a.Dev)), Minor: int(unix.Minor(a.Dev)),
		Open: int(a.Open_count), Suspended: a.Flags&unix.DM_SUSPEND_FLAG != 0,
	}}
	start := 0
	for range a.Target_count {
		if start < 0 || start+unix.SizeofDmTargetSpec > len(a.data) {
			return d, errors.New("its table ends too early")
		}
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&a.data[start]))
		d.Targets = append(d.Targets, Target{
			Start: int64(spec.Sector_start), Length: int64(spec.Length), Type: text(spec.Target_type[:]),
			Args: strings.Fields(text(a.data[start+unix.SizeofDmTargetSpec:])),
		})
		if next := int(spec.Next); next > start {
			start = next
		} else {
			start = len(a.data) // the last one, or nonsense: no other may follow
		}
	}
	return d, nil
}

// text is what is before the first zero byte.
func text(b []byte) string {
	before, _, _ := strings.Cut(string(b), "\x00")
	return before
}

func (l *LVM) asked(ctx context.Context) (map[string]Device, error) {
	if ctx.Err() != nil {
		return nil, fault.New(fault.Of(ctx.Err()).Code, "ask device-mapper: %w", ctx.Err())
	}
	return l.kernel()
}
