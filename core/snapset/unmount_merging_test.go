package snapset

import (
	"errors"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

// While a snapshot merges, LVM shows the device of its origin as its own, and that is where the services work.
func TestUnmountLeavesTheOriginsOfAMergeAlone(t *testing.T) {
	srv := serverWithSet(t)
	for _, origin := range []string{"vg00/dat", "vg00/pccehr"} {
		srv.Write(origin, 16*mib)
		srv.SetOpen(origin, 0)
	}
	if err := srv.lvm.Merge(t.Context(), "vg00/dat_s", "vg00/pccehr_s"); err != nil {
		t.Fatal(err)
	}
	srv.SetOpen("vg00/dat", 1)
	srv.SetOpen("vg00/pccehr", 1)
	op := srv.operation(Request{State: Unmounted, Check: true})
	if r, err := op.makeUnmounted(t.Context()); err != nil || r.Changed {
		t.Errorf("%q, %v", r.Msg, err)
	}
}

// One member has overflowed, and an administrator merges the other: the set cannot be taken again before the end.
func TestReplaceWaitsForAMergeMadeByHand(t *testing.T) {
	srv := serverWithSet(t)
	srv.Write("vg00/dat", 16*mib)
	srv.Write("vg00/pccehr", 64*mib) // it overflows
	srv.SetOpen("vg00/dat", 0)
	if err := srv.lvm.Merge(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	srv.SetOpen("vg00/dat", 1)
	op := srv.operation(Request{State: Present, Replace: true, Volumes: volumesNamed("/dat", "/pccehr")})
	if _, err := op.makePresent(t.Context()); !errors.Is(err, fault.Merging) || op.run.Entry() != nil {
		t.Errorf("%v, entry %+v", err, op.run.Entry())
	}
}
