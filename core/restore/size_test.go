package restore

import (
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// The least need may be counted too high, and a restore that would succeed be refused: there is a way to go on.
func TestNoSpaceHintNamesTheWayPastTheEstimate(t *testing.T) {
	f := fault.Of(noSpaceFault("0a1b", 400*mib, &lvm.Group{Name: "vg00", Free: 100 * mib}))
	if f.Code != fault.NoSpace || !strings.Contains(f.Hint, "size=SIZE") || !strings.Contains(f.Hint, "vgextend vg00") {
		t.Errorf("%v; hint %s", f, f.Hint)
	}
}

// A set that is not merged at once gets the default COW space at least. One that is merged at once may get less.
func TestWantedCOWIsSmallerWithMerge(t *testing.T) {
	for _, c := range []struct {
		merge              bool
		volume, most, want int64
	}{
		{false, 1000 * mib, 16 * mib, 200 * mib}, {false, 1000 * mib, 320 * mib, 372 * mib}, {false, 10 * mib, 0, 32 * mib},
		{true, 1000 * mib, 16 * mib, 49 * mib},
	} {
		targets := []snapset.Target{{LV: &lvm.Volume{Size: c.volume}}}
		r := &restoreRun{needs: []tree.Need{{Most: c.most}}, planned: &snapset.Planned{Targets: targets}}
		r.Merge = c.merge
		if got := r.wantedCOW(0); got != c.want {
			t.Errorf("%+v: %d MiB", c, got/mib)
		}
	}
}
