package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Layer is one block device of a stack.
type Layer struct {
	Name string `json:"name"`           // vg00-dat, sda1, loop3: device-mapper's name or the kernel's
	Kind string `json:"kind"`           // crypt, lvm, mpath, part, dm, loop, md, disk
	UUID string `json:"uuid,omitempty"` // device-mapper's: LVM-<group's 32 and volume's 32 characters>, CRYPT-LUKS2-…
	Dev  Dev    `json:"dev"`
}

func (l Layer) path() string {
	if slices.Contains([]string{"part", "disk", "loop", "md"}, l.Kind) {
		return "/dev/" + l.Name
	}
	return "/dev/mapper/" + l.Name
}

// Stack returns the device and all that it is made of, from top to bottom, as
// the kernel's sysfs ("/sys") shows it. A device that several are made of is
// named once. not_found if there is no such device.
func Stack(sysfs string, dev Dev) ([]Layer, error) {
	top, err := layer(blockDir(sysfs, dev))
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

// VolumeBelow returns the logical volume that a device is, or that its crypt
// mapping lies on; false if there is none in between.
func VolumeBelow(sysfs string, dev Dev) (Layer, bool, error) {
	l, err := layer(blockDir(sysfs, dev))
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

// Above returns the devices made directly of a device: a crypt mapping on a
// volume, for one.
func Above(sysfs string, dev Dev) ([]Layer, error) { return neighbours(sysfs, dev, "holders") }

// Below returns the devices that a device is directly made of.
func Below(sysfs string, dev Dev) ([]Layer, error) { return neighbours(sysfs, dev, "slaves") }

func blockDir(sysfs string, dev Dev) string { return filepath.Join(sysfs, "dev/block", dev.String()) }

// Counters returns what the kernel counts of a block device since it is there, in the order of
// Documentation/block/stat.rst; none of a device that is not there.
func Counters(sysfs string, dev Dev) []string {
	stat, _ := os.ReadFile(filepath.Join(blockDir(sysfs, dev), "stat"))
	return strings.Fields(string(stat))
}

// neighbours returns the devices one step below ("slaves") or above
// ("holders"), by name. A device that is gone has none.
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
		l, err := layer(filepath.Join(dir, direction, e.Name()))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// wholeDisk is what a partition is made of: sysfs shows it as the folder around
// the partition's own.
func wholeDisk(dir, direction string) ([]Layer, error) {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil || direction != "slaves" {
		return nil, nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, nil // gone meanwhile
	}
	l, err := layer(filepath.Dir(real))
	if err != nil {
		return nil, err
	}
	return []Layer{l}, nil
}

// layer reads one device's folder.
func layer(dir string) (Layer, error) {
	dev, err := parseDev(line(dir, "dev"))
	if err != nil {
		return Layer{}, fault.New(fault.NotFound, "block device %s: %w", filepath.Base(dir), err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		real = dir
	}
	l := Layer{Name: filepath.Base(real), UUID: line(dir, "dm/uuid"), Dev: dev}
	l.Kind = kind(dir, l.UUID)
	if name := line(dir, "dm/name"); name != "" {
		l.Name = name
	}
	return l, nil
}

// kind tells a device-mapper device by the prefix of its UUID, which every
// program that makes one puts there, and others by what their folder has.
func kind(dir, uuid string) string {
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

func line(dir, file string) string {
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
