package snapset

import (
	"errors"
	"io/fs"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// findVolume returns the volume that a name stands for. A name that begins with a slash is a mount point or else a
// device path; any other is vg/lv.
func (v *View) findVolume(name string) (*lvm.Volume, error) {
	if !strings.HasPrefix(name, "/") {
		return v.findByName(name)
	}
	if m, ok := filesystem.At(v.Mounts, name); ok {
		return v.findByMount(name, m)
	}
	dev, err := v.Device(name)
	switch {
	case err == nil:
		return v.findByDevice(name, dev, "")
	case errors.Is(err, fs.ErrNotExist):
		if strings.HasPrefix(name, "/dev/") {
			return v.findByName(name) // an inactive volume has no device node
		}
		return nil, fault.New(fault.NotFound, "volumes: %s does not exist", name).
			WithHint("name a mount point (findmnt), vg/lv (lvs) or a device path")
	}
	return nil, v.notMountPointFault(name)
}

func (v *View) findByName(name string) (*lvm.Volume, error) {
	vg, lvName, err := lvm.ParseName(name)
	if err != nil {
		return nil, fault.New(fault.BadArguments, "volumes: %w", err)
	}
	lv, err := v.Report.Need(vg, lvName)
	if err != nil {
		return nil, fault.New(fault.NotFound, "volumes: %w", err)
	}
	return lv, nil
}

func (v *View) findByMount(name string, m filesystem.Mount) (*lvm.Volume, error) {
	if m.Type == "btrfs" { // the device number of its mounts is not that of a volume
		return nil, noBtrfs(name)
	}
	if m.Type == filesystem.Autofs {
		return v.findByAutomount(name, m)
	}
	if m.Root != "/" {
		return nil, fault.New(fault.BadArguments, "volumes: %s is a bind mount of %s of %s, not the whole file system",
			name, m.Root, m.Source).
			WithHint("name the file system's own mount point or its volume")
	}
	return v.findByDevice(name, m.Dev, m.Type)
}

// findByDevice returns the volume that the device is, or if it is a crypt device, the volume below it. name is what the
// user named, for the error.
func (v *View) findByDevice(name string, dev filesystem.Dev, fstype string) (*lvm.Volume, error) {
	if lv, ok := v.Report.ByDevice(int(dev.Major), int(dev.Minor)); ok {
		return lv, nil
	}
	if dev.Major == 0 {
		return nil, fault.New(fault.Unsupported, "volumes: %s (%s) has no block device, so no LVM volume", name, fstype).
			WithHint("leave it out: only file systems on LVM can be taken into a set")
	}
	belowLayer, ok, err := filesystem.VolumeBelow(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	if lv, known := v.Report.ByDevice(int(belowLayer.Dev.Major), int(belowLayer.Dev.Minor)); ok && known {
		return lv, nil
	}
	if ok {
		return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which LVM does not see", name, belowLayer.Name).
			WithHint("%s", lvm.Unseen)
	}
	layers, err := filesystem.Stack(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	deviceName := name
	if len(layers) > 0 {
		deviceName = layers[0].Name
	}
	return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which is not a logical volume", name, deviceName).
		WithHint("leave it out: only file systems on LVM can be taken into a set")
}

// notMountPointFault refuses a path that is neither a mount point nor a device, and says which mount it lies on, so
// that the user can name that.
func (v *View) notMountPointFault(name string) error {
	f := fault.New(fault.BadArguments, "volumes: %s is neither a mount point nor a device", name)
	m, err := filesystem.Holding(v.Mounts, name)
	if err != nil {
		return f.WithHint("name a mount point, vg/lv or a device path")
	}
	return f.WithHint("it lies on %s, mounted on %s. If it has a volume of its own, mount that first; "+
		"to take the whole of %s, name that", m.Source, m.Point, m.Point)
}
