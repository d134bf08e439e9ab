package snapset

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
)

// findByAutomount returns the volume that an automount point would mount at its first use. It looks the volume up and
// does not mount it: the mount might be gone again at any time.
func (v *View) findByAutomount(name string, m filesystem.Mount) (*lvm.Volume, error) {
	if v.Behind != nil {
		if dev, ok := v.Behind(m.Point); ok {
			return v.findByDevice(name, dev, m.Type)
		}
	}
	return nil, fault.New(fault.Unsupported,
		"volumes: %s is an automount point, and neither /etc/fstab nor its unit names a device for it", name).
		WithHint("name its volume: vg/lv; or look into it first, so that it is mounted: ls %s", m.Point)
}

// automountPoint returns the automount point that would mount a device; empty if there is none.
func (v *View) automountPoint(dev filesystem.Dev) string {
	for _, m := range v.Mounts {
		if m.Type != filesystem.Autofs || v.Behind == nil {
			continue
		}
		if behind, ok := v.Behind(m.Point); ok && behind == dev {
			return m.Point
		}
	}
	return ""
}

// unitQueryLimit bounds the wait for systemd's answer to what a mount unit mounts.
const unitQueryLimit = 30 * time.Second

// behindAutomount is View.Behind for the real system. It finds the device of most automount points in /etc/fstab, and
// of the others in their mount units.
func behindAutomount(point string) (filesystem.Dev, bool) {
	fstab, _ := filesystem.Fstab(fstabFile)
	for _, e := range fstab {
		if e.Point == point {
			return e.Device()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), unitQueryLimit)
	defer cancel()
	systemd, err := service.Connect(ctx)
	if err != nil {
		return filesystem.Dev{}, false
	}
	defer systemd.Close()
	source, err := systemd.What(ctx, service.MountUnit(point))
	if err != nil {
		return filesystem.Dev{}, false
	}
	return filesystem.FstabEntry{Spec: source}.Device()
}
