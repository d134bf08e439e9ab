package snapset

import (
	"errors"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// An automount point shows no device until somebody has looked into it.
func TestAnAutomountPointIsLookedUp(t *testing.T) {
	w := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}}})
	w.mounts = []filesystem.Mount{
		{ID: 1, Root: "/", Point: "/dat", Type: filesystem.Autofs, Source: "systemd-1"},
		{ID: 2, Root: "/", Point: "/misc", Type: filesystem.Autofs, Source: "/etc/auto.misc"},
	}
	view := w.view()
	dat, _ := view.Report.ByPath("vg00/dat")
	view.Behind = func(point string) (filesystem.Dev, bool) { return devOf(dat), point == "/dat" }
	for _, word := range []string{"/dat", "vg00/dat"} {
		targets, err := view.Resolve(words(word))
		if err != nil || targets[0].LV.FullName() != "vg00/dat" || targets[0].Automount != "/dat" {
			t.Errorf("%s: %+v, %v", word, targets, err)
		}
	}
	_, err := view.Resolve(words("/misc"))
	if !errors.Is(err, fault.Unsupported) || fault.Of(err).Hint == "" {
		t.Errorf("one that nobody can tell the device of: %v", err)
	}
}
