package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Layer is one block device in a stack of block devices.
type Layer struct {
	Name string `json:"name"`           // device-mapper's name, such as vg00-dat, or the kernel's, such as sda1 or loop3
	Kind string `json:"kind"`           // crypt, lvm, mpath, part, dm, loop, md, disk
	UUID string `json:"uuid,omitempty"` // device-mapper's: LVM-<group's 32 and volume's 32 characters>, CRYPT-LUKS2-…
	Dev  Dev    `json:"dev"`
}

func (l Layer) devPath() string {
	if slices.Contains([]string{"part", "disk", "loop", "md"}, l.Kind) {
		return "/dev/" + l.Name
	}
	return "/dev/mapper/" + l.Name
}

// Stack returns a device and all devices that it is made of, from top to bottom, as sysfs (mounted at "/sys") shows
// them. A device that is found in several ways is returned once. Faults: not_found if there is no such device,
// internal.
func Stack(sysfs string, dev Dev) ([]Layer, error) {
	top, err := readLayer(blockDir(sysfs, dev))
	if err != nil {
		return nil, err
	}
	stack := []Layer{top}
	for i := 0; i < len(stack); i++ {
		below, err := neighbours(sysfs, stack[i].Dev, "slaves")
		if err != nil {
			return nil, err
		}
		for _, l := range below {
			if !slices.Contains(stack, l) {
				stack = append(stack, l)
			}
		}
	}
	return stack, nil
}

// Loop is a loop device, and where its file lies.
type Loop struct {
	Name     string
	On, Node Dev // as LoopFile returns them
}

// Loops returns the loop devices among the layers of a stack. ask is LoopFile; those for which it returns false are
// left out.
func Loops(stack []Layer, ask func(loop string) (on, node Dev, ok bool)) (loops []Loop) {
	for _, layer := range stack {
		if layer.Kind != "loop" {
			continue
		}
		if on, node, ok := ask("/dev/" + layer.Name); ok {
			loops = append(loops, Loop{layer.Name, on, node})
		}
	}
	return loops
}

// VolumeBelow returns the logical volume that a device is or, if it is a crypt mapping, the logical volume that the
// mapping lies on. It returns false if there is none. Faults: not_found if there is no such device, internal.
func VolumeBelow(sysfs string, dev Dev) (Layer, bool, error) {
	l, err := readLayer(blockDir(sysfs, dev))
	for err == nil && l.Kind == "crypt" {
		var below []Layer
		below, err = neighbours(sysfs, l.Dev, "slaves")
		if err == nil && len(below) != 1 {
			return Layer{}, false, nil
		}
		if err == nil {
			l = below[0]
		}
	}
	return l, err == nil && l.Kind == "lvm", err
}

// Above returns the devices that are made directly of a device, such as a crypt mapping on a volume. Faults: not_found,
// internal.
func Above(sysfs string, dev Dev) ([]Layer, error) { return neighbours(sysfs, dev, "holders") }

// Below returns the devices that a device is directly made of. Faults: not_found, internal.
func Below(sysfs string, dev Dev) ([]Layer, error) { return neighbours(sysfs, dev, "slaves") }

func blockDir(sysfs string, dev Dev) string { return filepath.Join(sysfs, "dev/block", dev.String()) }

// Counters returns the statistics that the kernel has counted for a block device since the device appeared, in the
// order of linux, Documentation/block/stat.rst. It returns none if there is no such device.
func Counters(sysfs string, dev Dev) []string {
	stat, _ := os.ReadFile(filepath.Join(blockDir(sysfs, dev), "stat"))
	return strings.Fields(string(stat))
}

// neighbours returns the devices one step below ("slaves") or above ("holders"), in the order of their names. A device
// that no longer exists has none.
func neighbours(sysfs string, dev Dev, direction string) ([]Layer, error) {
	dir := blockDir(sysfs, dev)
	entries, err := os.ReadDir(filepath.Join(dir, direction))
	if os.IsNotExist(err) {
		return wholeDisk(dir, direction)
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "%s of device %s: %w", direction, dev, err)
	}
	var layers []Layer
	for _, e := range entries {
		l, err := readLayer(filepath.Join(dir, direction, e.Name()))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// wholeDisk returns the disk that a partition is part of: in sysfs the directory of the partition lies in that of the
// disk.
func wholeDisk(dir, direction string) ([]Layer, error) {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil || direction != "slaves" {
		return nil, nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, nil // the device was removed meanwhile
	}
	l, err := readLayer(filepath.Dir(real))
	if err != nil {
		return nil, err
	}
	return []Layer{l}, nil
}

// readLayer reads the directory of one device in sysfs.
func readLayer(dir string) (Layer, error) {
	dev, err := parseDev(readLine(dir, "dev"))
	if err != nil {
		return Layer{}, fault.New(fault.NotFound, "block device %s: %w", filepath.Base(dir), err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		real = dir
	}
	l := Layer{Name: filepath.Base(real), UUID: readLine(dir, "dm/uuid"), Dev: dev}
	l.Kind = layerKind(dir, l.UUID)
	if name := readLine(dir, "dm/name"); name != "" {
		l.Name = name
	}
	return l, nil
}

// layerKind returns the kind of a device: for a device-mapper device by the prefix of its UUID, which programs that
// create such devices set, and for others by the files in its directory.
func layerKind(dir, uuid string) string {
	prefix, _, _ := strings.Cut(uuid, "-")
	switch {
	case prefix == "LVM" || prefix == "CRYPT" || prefix == "mpath":
		return strings.ToLower(prefix)
	case strings.HasPrefix(prefix, "part"):
		return "part" // kpartx
	}
	for _, k := range []struct{ file, kind string }{{"dm", "dm"}, {"partition", "part"}, {"loop", "loop"}, {"md", "md"}} {
		if _, err := os.Stat(filepath.Join(dir, k.file)); err == nil {
			return k.kind
		}
	}
	return "disk"
}

func readLine(dir, file string) string {
	data, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(data))
}

func parseDev(s string) (Dev, error) {
	major, minor, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	if err != nil {
		return Dev{}, err
	}
	b, err := strconv.ParseUint(minor, 10, 32)
	return Dev{uint32(a), uint32(b)}, err
}
