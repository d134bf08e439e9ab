package snapset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// A member without a device is taken before the instant: nobody may write to it from then on.
func TestAMemberThatWasInactiveStaysClosedOrTheSetIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(w *world, count func(written, discarded int))
		busy      bool
	}{
		"nothing happens": {func(*world, func(int, int)) {}, false},
		"it is activated": {func(_ *world, count func(int, int)) { count(0, 0) }, false},
		"it is mounted":   {func(w *world, count func(int, int)) { count(0, 0); w.SetOpen("vg01/off", 1) }, true},
		"it is written":   {func(_ *world, count func(int, int)) { count(16, 0) }, true},
		"it is discarded": {func(_ *world, count func(int, int)) { count(0, 64) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}, {Name: "pccehr"}}},
				lvmtest.Group{Name: "vg01", Volumes: []lvmtest.Volume{{Name: "off", Inactive: true}}})
			closeLimit = 10 * time.Millisecond
			t.Cleanup(func() { closeLimit = 30 * time.Second })
			p := w.mustPlan(Want{Set: "s", Volumes: words("vg01/off", "vg00/dat", "vg00/pccehr")})
			if p.Members[0].Method != Closed {
				t.Fatalf("taken by %s", p.Members[0].Method)
			}
			happened := sync.OnceFunc(func() { c.meanwhile(w, w.activated("vg01/off")) })
			l := w.lvm.On(func() (lvm.Mapper, error) {
				m, err := w.Mapper()
				return meanwhile{m, happened}, err
			})
			_, err := take(t.Context(), l, p, time.Minute)
			if !c.busy {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect(t, err, fault.Busy, "vg01/off was inactive, and somebody opened it or wrote to it")
			w.untouched("vg00/dat", "vg00/pccehr", "vg01/off")
		})
	}
}

// meanwhile is a device-mapper beside which something happens while a set is made ready.
type meanwhile struct {
	lvm.Mapper
	happens func()
}

func (m meanwhile) Blank(device string, size int) error {
	m.happens()
	return m.Mapper.Blank(device, size)
}

// activated has an administrator activate a volume, and the kernel count what is then written to it and discarded of
// it, in sectors.
func (w *world) activated(name string) func(written, discarded int) {
	return func(written, discarded int) {
		if err := w.lvm.Activate(w.t.Context(), name); err != nil {
			w.t.Error(err)
		}
		info, err := w.lvm.Info(w.t.Context())
		device := info[strings.ReplaceAll(name, "/", "-")]
		sysfs = w.t.TempDir()
		w.t.Cleanup(func() { sysfs = "/sys" })
		dir := filepath.Join(sysfs, "dev/block", filesystem.NewDev(device.Major, device.Minor).String())
		text := fmt.Sprintf("%8d 0 80 1 7 0 %d 2 0 5 5 3 0 %d 0 9 4\n", time.Now().UnixNano()%1000, written, discarded)
		err = errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o644))
		if err != nil {
			w.t.Error(err)
		}
	}
}
