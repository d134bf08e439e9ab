package restore

import (
	"testing"

	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// A set that waits for somebody to look at it lives as long as any other; one that is merged at once need not.
func TestRoomOfARestoredSet(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		merge            bool
		volume, most, is int64
	}{
		{false, 1000 * mib, 16 * mib, 200 * mib}, {false, 1000 * mib, 320 * mib, 372 * mib}, {false, 10 * mib, 0, 32 * mib},
		{true, 1000 * mib, 16 * mib, 49 * mib},
	} {
		targets := []snapset.Target{{LV: &lvm.Volume{Size: c.volume}}}
		w := &work{needs: []tree.Need{{Most: c.most}}, planned: &snapset.Planned{Targets: targets}}
		w.Merge = c.merge
		if got := w.wanted(0); got != c.is {
			t.Errorf("%+v: %d MiB", c, got/mib)
		}
	}
}
