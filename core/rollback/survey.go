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

// states asks the kernel for the state of each member, and LVM's metadata only where the kernel's answer is not enough:
// it does not know a merge that waits, nor what a thin volume was made of. A member that is lost is an error.
func (w *walk) states(ctx context.Context) (map[*Member]string, error) {
	states, gone, err := w.survey(ctx)
	return states, fault.All(err, gone)
}

// survey is states with the members that are lost beside the error.
func (w *walk) survey(ctx context.Context) (states map[*Member]string, gone, err error) {
	status, err := w.lvm.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	states = map[*Member]string{}
	sure := true
	for _, m := range w.state.Members {
		states[m] = kernelState(status[m.DMName])
		sure = sure && states[m] == merging
	}
	if sure {
		return states, nil, nil
	}
	report, err := w.lvm.Report(ctx)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, m := range w.state.Members {
		if states[m] == merging {
			continue
		}
		if states[m], err = metadataState(report, m, kernelLost(status, m)); states[m] == "" {
			return nil, nil, err
		}
		errs = append(errs, err)
	}
	return states, fault.All(errs...), nil
}

// hasBegun says that a merge has begun, or will without further request: from then on there is no way back. Where the
// journal leaves it open, LVM's metadata says so: a member that it does not show as merging, deferred or merged was
// not touched.
func (w *walk) hasBegun(ctx context.Context) (bool, error) {
	if way := wayOf(w.entry().Step); way != lvmDecides {
		return way == goesOn, nil
	}
	states, gone, err := w.survey(ctx)
	if err != nil {
		return false, err
	}
	untouched := w.untouched(states)
	if untouched && gone != nil {
		dead := strings.Join(snapshots(pick(states, w.state.Members, lost)), " ")
		journey.Say(fault.New(fault.Of(gone).Code, "the rollback to set %s is given up, nothing was rolled back: %w",
			w.state.Set, gone).
			WithHint("remove what is left of the set (lvm_snapshot state=absent, or lvremove %s), then take a new one", dead))
	}
	return !untouched, nil
}

// untouched says that no member merges, is merged, or will be. One that was lost never will, whatever LVM has it
// marked as.
func (w *walk) untouched(states map[*Member]string) bool {
	return len(pick(states, w.state.Members, waiting))+len(pick(states, w.state.Members, lost)) == len(w.state.Members)
}

// kernelState is merging if the kernel merges the member whose origin has these targets, else waiting. The table of a
// merge from a COW that overflowed before is there after a boot, and merges nothing.
func kernelState(targets []lvm.Target) string {
	for _, t := range targets {
		if s, ok := t.Snapshot(); ok && s.Merging && !s.Lost() {
			return merging
		}
	}
	return waiting
}

// kernelLost says that the kernel has given up a member's COW, in the snapshot's own table or in that of a merge.
func kernelLost(status map[string][]lvm.Target, m *Member) bool {
	for _, t := range slices.Concat(status[m.DMName], status[m.SnapshotDM]) {
		if s, ok := t.Snapshot(); ok && s.Lost() {
			return true
		}
	}
	return false
}

// metadataState is what LVM says of a member that the kernel does not merge, and may have given up. Of one that is lost
// the error says so.
func metadataState(r *lvm.Report, m *Member, given bool) (string, error) {
	v, ok := r.ByUUID(m.SnapshotID)
	origin, there := r.Volume(m.VG, m.LV)
	switch {
	case !there:
		return "", fault.New(fault.NotFound, "volume %s is gone", m.origin()).
			WithHint("vgs and pvs show whether a disk is missing; run the same task again when it is back")
	case !ok && m.Lost:
		return forsaken, nil
	case !ok || m.Thin && v.Name == m.LV: // a thin snapshot takes its origin's place
		return merged, nil
	case !m.Thin && v.Origin == "" && v.FullName() == m.snapshot():
		// LVM ends a merge by two commits: the COW volume is no snapshot any more, then it is removed. Activated after a
		// power cut, 2.03.16 makes the first and never comes to the second.
		return detached, nil
	case v.Lost() || given: // also of one that LVM has marked as merging: it never will
		hint := fmt.Sprintf("the data of %s is as it was left; services that were stopped for its rollback stay down", m.origin())
		if v.Merging {
			hint += fmt.Sprintf("; LVM has %s marked as merging until it is removed (lvremove %s); a run after that goes on without it, and leaves the services stopped", m.snapshot(), m.snapshot())
		}
		return lost, fault.New(fault.SnapshotInvalid, "%s was lost before it was merged", m.snapshot()).
			With("origin_state", string(origin.State)).WithHint("%s", hint)
	case v.Merging:
		return deferred, nil
	}
	return waiting, nil
}

// left asks the kernel how many bytes are still to be merged, and which members it has merged while LVM does not know.
func (w *walk) left(ctx context.Context) (bytes int64, idle []*Member, err error) {
	status, err := w.lvm.Status(ctx)
	if err != nil {
		return 0, nil, err
	}
	for _, m := range w.state.Members {
		for _, t := range status[m.DMName] {
			s, ok := t.Snapshot()
			switch {
			case !ok || !s.Merging:
			case s.MergeFailed:
				return 0, nil, fault.New(fault.MergeFailed, "the kernel failed to merge %s: an I/O error", m.snapshot()).
					WithHint("%s", snapset.MergeAgain(m.origin()))
			case s.Merged():
				idle = append(idle, m)
			default:
				bytes += s.UsedBytes()
			}
		}
	}
	return bytes, idle, nil
}

func (w *walk) percent(left int64) float64 {
	var all int64
	for _, m := range w.state.Members {
		all += m.Used
	}
	if all == 0 || left > all {
		return 0
	}
	return 100 * float64(all-left) / float64(all)
}
