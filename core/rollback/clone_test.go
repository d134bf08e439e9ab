package rollback

import (
	"slices"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// vgimportclone makes a new volume group of copied disks, whose volumes keep their UUIDs. What is merged in the one
// group is still there in the other, and what was removed too.
func TestMembersAreNotLookedUpInCopyOfTheirGroup(t *testing.T) {
	for _, merged := range allSnapshots {
		f := server()
		rb := newAtMerge(t, f, merged)
		f.CloneGroup("vg00", "copy")
		if err := rb.lvm.Merge(t.Context(), merged); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			f.Tick()
		}
		states, err := rb.survey.states(t.Context())
		if m := rb.state.Members[0]; err != nil || states[m] != stateMerged {
			t.Errorf("%s was merged, and is %q: %v", merged, states[m], err)
		}
	}
	for _, removed := range allSnapshots {
		f := server()
		rb := newAtMerge(t, f, allSnapshots...)
		f.CloneGroup("vg00", "copy")
		f.Remove(removed)
		if err := rb.survey.recheck(t.Context()); fault.Of(err) == nil || fault.Of(err).Code != fault.SnapshotInvalid {
			t.Errorf("%s was removed: %v", removed, err)
		}
	}
}

// The group that has the recorded name may be a copy by now. Journals of earlier versions have only the name.
func TestGroupIsRecognizedByItsUUID(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s")
	m := rb.state.Members[0]
	r := readReport(t, rb)
	if state, err := rb.survey.metadataState(r, m, false); state != stateWaiting || err != nil {
		t.Errorf("in its own group: %q, %v", state, err)
	}
	r.Groups[0].UUID = "another"
	if state, err := rb.survey.metadataState(r, m, false); fault.Of(err) == nil || fault.Of(err).Code != fault.NotFound {
		t.Errorf("in a copy of the group: %q, %v", state, err)
	}
	m.VGID = ""
	if state, err := rb.survey.metadataState(r, m, false); state != stateWaiting || err != nil {
		t.Errorf("recorded by an earlier version: %q, %v", state, err)
	}
}

// The snapshot in a copy of the group has the UUID of a member, and is none.
func TestSnapshotInCopiedGroupIsNoMember(t *testing.T) {
	st := &State{Members: []*Member{{VG: "vg00", Snapshot: "dat_s", SnapshotID: "1"}}}
	own, copied := &lvm.Volume{VG: "vg00", UUID: "1"}, &lvm.Volume{VG: "copy", UUID: "1"}
	isMember := []bool{st.hasSnapshot(own), st.hasSnapshot(copied)}
	if !slices.Equal(isMember, []bool{true, false}) {
		t.Errorf("%v", isMember)
	}
}
