package rollback

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// survey finds out how far LVM and the kernel are with each member.
type survey struct {
	*base
	missing []string // the snapshots, vg/lv, that LVM did not find when it was told to merge them
}

// states is look, except that a lost member is an error.
func (s *survey) states(ctx context.Context) (map[*Member]string, error) {
	states, lostErr, err := s.look(ctx)
	return states, fault.All(err, lostErr)
}

// look returns the state of each member, and apart from errors of its own a fault that names the members that are
// lost. It asks the kernel, and reads LVM's metadata only if the kernel does not show every member as merging: the
// kernel does not know a deferred merge, nor what a thin volume was made from.
func (s *survey) look(ctx context.Context) (states map[*Member]string, lostErr, err error) {
	status, err := s.lvm.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	states = map[*Member]string{}
	allMerging := true
	for _, m := range s.state.Members {
		states[m] = kernelState(status[m.DMName])
		allMerging = allMerging && states[m] == stateMerging
	}
	if allMerging {
		return states, nil, nil
	}
	report, err := s.lvm.Report(ctx)
	if err != nil {
		return nil, nil, err
	}
	var lostErrs []error
	for _, m := range s.state.Members {
		if states[m] == stateMerging {
			continue
		}
		if states[m], err = s.metadataState(report, m, isLostInKernel(status, m)); states[m] == "" {
			return nil, nil, err
		}
		lostErrs = append(lostErrs, err)
	}
	return states, fault.All(lostErrs...), nil
}

// hasBegun is true if a merge has begun, or will begin without a further command: then the rollback cannot be undone
// any more. If the step in the journal leaves that open, LVM's metadata decides: a member that it does not show as
// merging, deferred or merged was not touched.
func (s *survey) hasBegun(ctx context.Context) (bool, error) {
	if d := directionOf(s.entry().Step); d != lvmDecides {
		return d == forward, nil
	}
	states, lostErr, err := s.look(ctx)
	if err != nil {
		return false, err
	}
	isUntouched := s.state.isUntouched(states)
	if isUntouched && lostErr != nil {
		journey.LogError(s.state.givenUpFault(states, lostErr))
	}
	return !isUntouched, nil
}

// givenUpFault returns the fault for a snapshot that was lost while nothing was rolled back yet, so that everything is
// put back.
func (st *State) givenUpFault(states map[*Member]string, lostErr error) error {
	lostSnapshots := strings.Join(snapshotNames(membersIn(states, st.Members, stateLost)), " ")
	return fault.New(fault.Of(lostErr).Code, "the rollback to set %s is given up, nothing was rolled back: %w",
		st.Set, lostErr).
		WithHint("remove what is left of the set (lvm_snapshot state=absent, or lvremove %s), then take a new one",
			lostSnapshots)
}

// isUntouched is true if no member merges, is merged, or will be. A lost member will never be merged, even if LVM has
// it marked as merging.
func (st *State) isUntouched(states map[*Member]string) bool {
	members := st.Members
	return len(membersIn(states, members, stateWaiting))+len(membersIn(states, members, stateLost)) == len(members)
}

// isMergeComplete is true if no member is left to be merged.
func (st *State) isMergeComplete(states map[*Member]string) bool {
	members := st.Members
	return len(membersIn(states, members, stateMerged))+len(membersIn(states, members, stateNotRolledBack)) == len(members)
}

// kernelState returns stateMerging if the kernel merges the member whose origin has these targets, otherwise
// stateWaiting. After a boot an origin can have the table of a merge from a snapshot that had overflowed before: that
// table merges nothing.
func kernelState(targets []lvm.Target) string {
	for _, t := range targets {
		if s, ok := t.Snapshot(); ok && s.Merging && !s.Lost() {
			return stateMerging
		}
	}
	return stateWaiting
}

// isLostInKernel is true if the kernel has invalidated the member's snapshot, as either the table of the snapshot or
// the table of the merge shows.
func isLostInKernel(status map[string][]lvm.Target, m *Member) bool {
	for _, t := range slices.Concat(status[m.DMName], status[m.SnapshotDM]) {
		if s, ok := t.Snapshot(); ok && s.Lost() {
			return true
		}
	}
	return false
}

// isRemoved is true if the snapshot of a member, which is not there, was not merged: LVM has not found it, or the
// origin does not have the place in its pool that a merged thin snapshot leaves it.
func (s *survey) isRemoved(m *Member, origin *lvm.Volume) bool {
	return slices.Contains(s.missing, m.snapshot()) || m.Thin && m.ThinID != 0 && m.ThinID != origin.ThinID
}

// removedFault returns the fault for a snapshot that is gone, and was not merged.
func removedFault(m *Member) error {
	return fault.New(fault.SnapshotInvalid, "%s was removed, or another one has its name, before it was merged",
		m.snapshot()).WithHint("another program did that while the services stopped, such as one that makes room; "+
		"without the snapshot %s can only be restored from a backup", m.origin())
}

// overflowedFault returns the fault for a snapshot v that overflowed before it was merged.
func overflowedFault(m *Member, v, origin *lvm.Volume) error {
	hint := fmt.Sprintf("the data of %s is as it was left; services that were stopped for its rollback stay down",
		m.origin())
	if v.Merging {
		hint += fmt.Sprintf("; LVM has %[1]s marked as merging until it is removed (lvremove %[1]s); "+
			"a run after that goes on without it, and leaves the services stopped", m.snapshot())
	}
	return fault.New(fault.SnapshotInvalid, "%s was lost before it was merged", m.snapshot()).
		With("origin_state", string(origin.State)).WithHint("%s", hint)
}

// metadataState returns the state of a member that the kernel does not merge, from LVM's metadata. lostInKernel is the
// result of isLostInKernel. For a member that is lost it returns both the state and a fault (snapshot_invalid). If the
// origin is gone, it returns only a fault (not_found).
func (s *survey) metadataState(r *lvm.Report, m *Member, lostInKernel bool) (string, error) {
	v, exists := m.find(r)
	origin, originExists := m.findOrigin(r)
	switch {
	case !originExists:
		return "", fault.New(fault.NotFound, "volume %s is gone", m.origin()).
			WithHint("vgs and pvs show whether a disk is missing; run the same task again when it is back")
	case !exists && m.Lost:
		return stateNotRolledBack, nil
	case !exists && s.isRemoved(m, origin):
		return stateLost, removedFault(m)
	case !exists || m.Thin && v.Name == m.LV: // a merged thin snapshot has the name of its origin
		return stateMerged, nil
	case !m.Thin && v.Origin == "" && v.FullName() == m.snapshot():
		// LVM ends a merge with two commits: first the COW volume stops being a snapshot, then it is removed. When LVM
		// 2.03.16 activates the volume after a power cut, it makes the first commit and never the second.
		return stateDetached, nil
	case v.Lost() || lostInKernel: // also if LVM has it marked as merging: it will never be merged
		return stateLost, overflowedFault(m, v, origin)
	case v.Merging:
		return stateDeferred, nil
	}
	return stateWaiting, nil
}

// remaining asks the kernel how many bytes are still to be merged. unreported are the members that the kernel has
// merged completely while LVM does not know of it yet.
func (s *survey) remaining(ctx context.Context) (bytes int64, unreported []*Member, err error) {
	status, err := s.lvm.Status(ctx)
	if err != nil {
		return 0, nil, err
	}
	for _, m := range s.state.Members {
		for _, t := range status[m.DMName] {
			s, ok := t.Snapshot()
			switch {
			case !ok || !s.Merging:
			case s.MergeFailed:
				return 0, nil, fault.New(fault.MergeFailed, "the kernel failed to merge %s: an I/O error", m.snapshot()).
					WithHint("%s", snapset.MergeAgain(m.origin()))
			case s.Merged():
				unreported = append(unreported, m)
			default:
				bytes += s.UsedBytes()
			}
		}
	}
	return bytes, unreported, nil
}

// percentMerged returns how much of all merges is done, 0 to 100, if bytesLeft are still to be merged.
func (st *State) percentMerged(bytesLeft int64) float64 {
	var total int64
	for _, m := range st.Members {
		total += m.Used
	}
	if total == 0 || bytesLeft > total {
		return 0
	}
	return 100 * float64(total-bytesLeft) / float64(total)
}
