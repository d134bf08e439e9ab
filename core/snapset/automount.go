package snapset

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
)

// byAutomount returns the volume that the first look at an automount point would mount there. It is looked up and not
// mounted: it may be unmounted again at any time.
func (v *View) byAutomount(word string, m filesystem.Mount) (*lvm.Volume, error) {
	if v.Behind != nil {
		if dev, ok := v.Behind(m.Point); ok {
			return v.byDevice(word, dev, m.Type)
		}
	}
	return nil, fault.New(fault.Unsupported,
		"volumes: %s is an automount point, and neither /etc/fstab nor its unit names a device for it", word).
		WithHint("name its volume: vg/lv; or look into it first, so that it is mounted: ls %s", m.Point)
}

// automount returns the automount point that would mount a device; empty if there is none.
func (v *View) automount(dev filesystem.Dev) string {
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

// unitLimit bounds the question to systemd what a mount unit mounts.
const unitLimit = 30 * time.Second

// behindAutomount is View.Behind for the real system. /etc/fstab says it of most automount points, a mount unit of
// the others.
func behindAutomount(point string) (filesystem.Dev, bool) {
	fstab, _ := filesystem.Fstab("/etc/fstab")
	for _, e := range fstab {
		if e.Point == point {
			return e.Device()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), unitLimit)
	defer cancel()
	systemd, err := service.Connect(ctx)
	if err != nil {
		return filesystem.Dev{}, false
	}
	defer systemd.Close()
	what, err := systemd.What(ctx, service.MountUnit(point))
	if err != nil {
		return filesystem.Dev{}, false
	}
	return filesystem.FstabEntry{Spec: what}.Device()
}
