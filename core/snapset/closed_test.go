package snapset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// A member that nobody has open is taken before the instant: nobody may write to it from then on.
func TestAMemberThatWasClosedStaysSoOrTheSetIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(w *world, count func(written, discarded int))
		busy      bool
	}{
		"nothing happens": {func(*world, func(int, int)) {}, false},
		"it is read":      {func(_ *world, count func(int, int)) { count(8, 0) }, false},
		"it is mounted":   {func(w *world, _ func(int, int)) { w.SetOpen("vg00/t1", 1) }, true},
		"it is written":   {func(_ *world, count func(int, int)) { count(16, 0) }, true},
		"it is discarded": {func(_ *world, count func(int, int)) { count(8, 64) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			closeLimit = 10 * time.Millisecond
			t.Cleanup(func() { closeLimit = 30 * time.Second })
			w.SetOpen("vg00/t1", 0)
			w.mounts = w.mounts[:3] // /t1 and /t2 are not mounted
			count := w.counts("vg00/t1")
			count(8, 0)
			p := w.mustPlan(newKernel, Want{Set: "s", Volumes: words("vg00/t1", "/dat", "/pccehr")})
			if p.Members[0].Method != Closed {
				t.Fatalf("taken by %s", p.Members[0].Method)
			}
			l := w.lvm.On(func() (lvm.Mapper, error) {
				m, err := w.Mapper()
				return meanwhile{m, func() { c.meanwhile(w, count) }}, err
			})
			_, err := take(t.Context(), l, p, time.Minute)
			if !c.busy {
				if err != nil {
					t.Error(err)
				}
				return
			}
			expect(t, err, fault.Busy, "vg00/t1 was closed, and somebody opened it or wrote to it")
			w.untouched(origins...)
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

// counts has the kernel count what is written to a volume and discarded of it, in sectors.
func (w *world) counts(name string) func(written, discarded int) {
	w.t.Helper()
	v, _ := w.report().ByPath(name)
	sysfs = w.t.TempDir()
	w.t.Cleanup(func() { sysfs = "/sys" })
	dir := filepath.Join(sysfs, "dev/block", devOf(v).String())
	return func(written, discarded int) {
		text := fmt.Sprintf("%8d 0 80 1 7 0 %d 2 0 5 5 3 0 %d 0 9 4\n", time.Now().UnixNano()%1000, written, discarded)
		err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o644))
		if err != nil {
			w.t.Error(err)
		}
	}
}
