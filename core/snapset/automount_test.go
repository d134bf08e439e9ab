package snapset

import (
	"errors"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// An automount point shows no device until it is first used.
func TestResolveFindsVolumeBehindAutomount(t *testing.T) {
	srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}}})
	srv.mounts = []filesystem.Mount{
		{ID: 1, Root: "/", Point: "/dat", Type: filesystem.Autofs, Source: "systemd-1"},
		{ID: 2, Root: "/", Point: "/misc", Type: filesystem.Autofs, Source: "/etc/auto.misc"},
	}
	view := srv.view()
	dat, _ := view.Report.ByPath("vg00/dat")
	view.Behind = func(point string) (filesystem.Dev, bool) { return devOf(dat), point == "/dat" }
	for _, word := range []string{"/dat", "vg00/dat"} {
		targets, err := view.Resolve(volumesNamed(word))
		if err != nil || targets[0].LV.FullName() != "vg00/dat" || targets[0].Automount != "/dat" {
			t.Errorf("%s: %+v, %v", word, targets, err)
		}
	}
	_, err := view.Resolve(volumesNamed("/misc"))
	if !errors.Is(err, fault.Unsupported) || fault.Of(err).Hint == "" {
		t.Errorf("an automount point of unknown device: %v", err)
	}
}
