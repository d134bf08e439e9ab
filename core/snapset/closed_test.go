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

// The snapshot of a member without a device is made before the instant, so nobody may write to the member from then on.
func TestTakeRefusesSetIfInactiveMemberWasOpenedOrWritten(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(srv *testServer, count func(written, discarded int))
		busy      bool
	}{
		"nothing happens": {func(*testServer, func(int, int)) {}, false},
		"it is activated": {func(_ *testServer, count func(int, int)) { count(0, 0) }, false},
		"it is mounted":   {func(srv *testServer, count func(int, int)) { count(0, 0); srv.SetOpen("vg01/off", 1) }, true},
		"it is written":   {func(_ *testServer, count func(int, int)) { count(16, 0) }, true},
		"it is discarded": {func(_ *testServer, count func(int, int)) { count(0, 64) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newTestServer(t, lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}, {Name: "pccehr"}}},
				lvmtest.Group{Name: "vg01", Volumes: []lvmtest.Volume{{Name: "off", Inactive: true}}})
			closeLimit = 10 * time.Millisecond
			t.Cleanup(func() { closeLimit = 30 * time.Second })
			p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("vg01/off", "vg00/dat", "vg00/pccehr")})
			if p.Members[0].Method != Closed {
				t.Fatalf("taken by %s", p.Members[0].Method)
			}
			happened := sync.OnceFunc(func() { c.meanwhile(srv, srv.activateWithCounters("vg01/off")) })
			l := srv.lvm.On(func() (lvm.Mapper, error) {
				m, err := srv.Mapper()
				return hookedMapper{m, happened}, err
			})
			_, err := take(t.Context(), l, p, time.Minute)
			if !c.busy {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expectFault(t, err, fault.Busy, "vg01/off was inactive, and somebody opened it or wrote to it")
			srv.assertUntouched("vg00/dat", "vg00/pccehr", "vg01/off")
		})
	}
}

// hookedMapper is a device-mapper that calls hook while a set is made ready.
type hookedMapper struct {
	lvm.Mapper
	hook func()
}

func (m hookedMapper) Blank(device string, size int) error {
	m.hook()
	return m.Mapper.Blank(device, size)
}

// activateWithCounters returns a function that activates a volume, as an administrator would, and sets the kernel's
// counts of sectors that were written to it and discarded on it.
func (srv *testServer) activateWithCounters(name string) func(written, discarded int) {
	return func(written, discarded int) {
		if err := srv.lvm.Activate(srv.t.Context(), name); err != nil {
			srv.t.Error(err)
		}
		info, err := srv.lvm.Info(srv.t.Context())
		device := info[strings.ReplaceAll(name, "/", "-")]
		sysfs = srv.t.TempDir()
		srv.t.Cleanup(func() { sysfs = "/sys" })
		dir := filepath.Join(sysfs, "dev/block", filesystem.NewDev(device.Major, device.Minor).String())
		text := fmt.Sprintf("%8d 0 80 1 7 0 %d 2 0 5 5 3 0 %d 0 9 4\n", time.Now().UnixNano()%1000, written, discarded)
		err = errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o644))
		if err != nil {
			srv.t.Error(err)
		}
	}
}
