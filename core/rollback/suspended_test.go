package rollback

import (
	"slices"
	"testing"

	"go.pcc.com/rewind/core/journal"
)

// An lvconvert that is killed before it has committed the merge leaves the origin suspended. Nothing mounts such a
// volume, and whatever writes to it hangs, so it is resumed before anything is mounted or the entry is closed.
func TestWhatAKilledLvconvertSuspendedIsResumed(t *testing.T) {
	for _, step := range []string{stepMerging, stepUndoing, StepDeferred} {
		for _, prepared := range []bool{false, true} {
			f := server()
			rb := newAtMerge(t, f, "vg00/dat_s")
			tried := mountOnTest(rb)
			beginAt(t, rb, step)
			f.Suspend("vg00/dat", prepared)
			if err := rb.settle(t.Context()); err != nil {
				t.Errorf("%s: %v", step, err)
			}
			if _, left := f.Mapped("vg00/dat"); f.Suspended("vg00/dat") || left {
				t.Errorf("%s, with a prepared table %v: the volume is left suspended", step, prepared)
			}
			wantMounts := step != StepDeferred // its volumes are in use
			if slices.Contains(*tried, "/rw-test/a") != wantMounts || rb.entry().Outcome != journal.Undone {
				t.Errorf("%s: tried to mount %v, %s", step, *tried, rb.entry().Outcome)
			}
		}
	}
}
