package rollback

import (
	"errors"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// A volume whose snapshot somebody removed while its services stopped was not rolled back, although LVM shows no
// snapshot of it any more, as after a merge.
func TestARemovedSnapshotIsNotTakenForMerged(t *testing.T) {
	for _, removed := range allSnapshots {
		for _, others := range []bool{false, true} {
			f := server()
			names := []string{removed}
			if others {
				names = allSnapshots
			}
			rb := newAtMerge(t, f, names...)
			beginAt(t, rb, stepMerging)
			rb.merges.ready = true
			f.Remove(removed) // as another program does
			err := rb.merges.begin(t.Context())
			if !errors.Is(err, fault.SnapshotInvalid) {
				t.Errorf("%s, with others %v: %v", removed, others, err)
			}
			states, lost, err := rb.survey.look(t.Context())
			if err != nil || !others && (lost == nil || !rb.state.isUntouched(states)) {
				t.Errorf("%s, with others %v: %v, %v, %v", removed, others, states, lost, err)
			}
			for _, m := range rb.state.Members {
				if others && m.Lost != (m.snapshot() == removed) {
					t.Errorf("%s is removed; %s is lost: %v", removed, m.snapshot(), m.Lost)
				}
			}
		}
	}
}

// The last check before the merge finds out that a snapshot was removed, or that another one has its name.
func TestRecheckFindsRemovedAndReplacedSnapshots(t *testing.T) {
	for _, name := range allSnapshots {
		for _, again := range []bool{false, true} {
			f := server()
			rb := newAtMerge(t, f, allSnapshots...)
			i := slices.Index(allSnapshots, name)
			m := rb.state.Members[i]
			f.Remove(name)
			if again {
				f.Make("vg00", lvmtest.Volume{Name: m.Snapshot, Origin: m.LV, Pool: m.Pool})
			}
			if err := rb.survey.recheck(t.Context()); !errors.Is(err, fault.SnapshotInvalid) || rb.merges.ready {
				t.Errorf("%s, made again %v: %v", name, again, err)
			}
		}
	}
}
