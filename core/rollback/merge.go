package rollback

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// The states of a member.
const (
	waiting  = "waiting"  // not merging yet
	deferred = "deferred" // recorded as merging, but the kernel does not
	merging  = "merging"
	detached = "detached" // merged, but its COW volume is still there
	merged   = "merged"
)

const (
	// closeLimit bounds the wait for a volume that something opened just when its merge was to begin (udev does).
	closeLimit = 5 * time.Minute
	// tick is how often the kernel is asked while nothing tells of a change: device-mapper has no event for it.
	tick = 500 * time.Millisecond
)

// merge has LVM merge all members and returns when the kernel merges each of them, or has merged it.
func (w *walk) merge(ctx context.Context) error {
	w.trip.Progress("merging", -1)
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	var failed error
	for tried := 0; ; {
		states, err := w.states(ctx)
		if err != nil {
			return err
		}
		wait := pick(states, w.state.Members, waiting)
		late := pick(states, w.state.Members, deferred)
		switch {
		case len(wait)+len(late) == 0:
			return nil
		case len(wait) > 0 && tried < 2:
			tried++
			failed = w.lvm.Merge(ctx, snapshots(wait)...)
			continue
		case len(wait) > 0:
			return w.refused(wait, failed)
		}
		if err := w.unlatch(ctx, late); err != nil {
			return err
		}
	}
}

// refused says that LVM does not take members for merging, after the point of no return.
func (w *walk) refused(wait []*Member, because error) error {
	if because == nil {
		because = fault.New(fault.MergeFailed, "LVM reports no error")
	}
	return fault.New(fault.MergeFailed, "%s cannot be merged; the services stay down, because other volumes of the set are rolled back already: %w",
		strings.Join(snapshots(wait), ", "), because).
		WithHint("lvs -a shows each snapshot; mend the cause and run the same task again: it goes on from here")
}

// unlatch starts merges that LVM deferred because it found their volumes open. Nothing of ours is: it was udev, or a
// monitoring tool that looked for a moment.
func (w *walk) unlatch(ctx context.Context, late []*Member) error {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var closed []string
	for _, m := range late {
		if info[m.DMName].Open == 0 {
			closed = append(closed, m.origin())
		}
	}
	if len(closed) > 0 {
		if err := w.lvm.Refresh(ctx, closed...); err == nil {
			return nil
		}
	}
	select {
	case <-time.After(tick):
		return nil
	case <-ctx.Done():
		return w.stillBusy(context.WithoutCancel(ctx), fault.New(fault.Busy, "%s was opened while its merge was to begin, and was not closed for %s; the services stay down",
			strings.Join(origins(late), ", "), closeLimit).
			WithHint("end what holds it, and run the same task again: it goes on from here"))
	}
}

// states asks the kernel for the state of each member, and LVM's metadata only where the kernel's answer is not enough:
// it does not know a merge that waits, nor what a thin volume was made of.
func (w *walk) states(ctx context.Context) (map[*Member]string, error) {
	status, err := w.lvm.Status(ctx)
	if err != nil {
		return nil, err
	}
	states := map[*Member]string{}
	sure := true
	for _, m := range w.state.Members {
		states[m] = kernelState(status, m)
		sure = sure && states[m] == merging
	}
	if sure {
		return states, nil
	}
	report, err := w.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	for m, state := range states {
		if state == merging {
			continue
		}
		if states[m], err = metadataState(report, m); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// kernelState is merging if the kernel merges the member, else waiting.
func kernelState(status map[string][]lvm.Target, m *Member) string {
	for _, t := range status[m.DMName] {
		if s, ok := t.Snapshot(); ok && s.Merging {
			return merging
		}
	}
	return waiting
}

// metadataState is what LVM says of a member that the kernel does not merge.
func metadataState(r *lvm.Report, m *Member) (string, error) {
	v, ok := r.ByUUID(m.SnapshotID)
	origin, there := r.Volume(m.VG, m.LV)
	switch {
	case !there:
		return "", fault.New(fault.NotFound, "volume %s is gone", m.origin()).
			WithHint("vgs and pvs show whether a disk is missing; run the same task again when it is back")
	case !ok || m.Thin && v.Name == m.LV: // a thin snapshot takes its origin's place
		return merged, nil
	case !m.Thin && v.Origin == "" && v.FullName() == m.snapshot():
		// LVM ends a merge by two commits: the COW volume is no snapshot any more, then it is removed. Activated after a
		// power cut, 2.03.16 makes the first and never comes to the second.
		return detached, nil
	case v.Merging:
		return deferred, nil
	case v.Lost():
		return "", fault.New(fault.SnapshotInvalid, "%s was lost before it was merged", m.snapshot()).
			With("origin_state", string(origin.State)).
			WithHint("the services stay down; the data of %s is what it was when they were stopped", m.origin())
	}
	return waiting, nil
}

// finish waits until every member is merged and LVM has tidied up, then takes the boot guard away and closes the entry.
func (w *walk) finish(ctx context.Context) error {
	if err := w.waitMerged(ctx); err != nil {
		return err
	}
	return w.done()
}

// stalled is how long a merge may make no progress at all before the wait for it ends. The merge itself goes on.
const stalled = 10 * time.Minute

func (w *walk) waitMerged(ctx context.Context) error {
	last, moved := int64(-1), time.Now()
	for {
		left, idle, err := w.left(ctx)
		if err != nil {
			return err
		}
		if left == 0 && len(idle) == 0 {
			states, err := w.states(ctx)
			if err != nil {
				return err
			}
			if len(pick(states, w.state.Members, merged)) == len(w.state.Members) {
				return nil
			}
			if err := w.sweep(ctx, pick(states, w.state.Members, detached)); err != nil {
				return err
			}
		}
		if left != last {
			last, moved = left, time.Now()
			w.trip.Extend(2 * stalled)
		}
		w.trip.Progress("merging", w.percent(left))
		if len(idle) > 0 && time.Since(moved) > 2*time.Second {
			// The kernel is done and nobody tells LVM: its poller is gone. Watching twice does no harm.
			if err := w.lvm.Poll(ctx, origins(idle)...); err != nil {
				return err
			}
		}
		if time.Since(moved) > stalled {
			return fault.New(fault.Timeout, "the merge of %s made no progress for %s; it goes on in the kernel", join(origins(w.state.Members)), stalled).
				WithHint("dmsetup status; the volumes are in use meanwhile, and the next run looks again")
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Interrupted, "the merge goes on without this journey").WithHint("lvm_snapshot_info shows its progress")
		case <-time.After(tick):
		}
	}
}

// sweep removes the COW volumes that LVM left behind. LVM may just have done so itself.
func (w *walk) sweep(ctx context.Context, detached []*Member) error {
	err := w.lvm.Remove(ctx, snapshots(detached)...)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
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
					WithHint("dmesg says which device; the volume reads as the snapshot was, and must not be removed")
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

// retake takes the same set again, for rehearsals. LVM takes no thick snapshot of a volume that is merging, so the
// services wait for the merge; thin ones are merged by now.
func (w *walk) retake(ctx context.Context) error {
	if err := w.waitMerged(ctx); err != nil {
		return err
	}
	var volumes []snapset.Volume
	for _, m := range w.state.Members {
		v := snapset.Volume{Name: m.origin()}
		if m.COWSize > 0 {
			v.Size = size(m.COWSize)
		}
		volumes = append(volumes, v)
	}
	mine := w.trip.Entry()
	defer w.trip.Resume(mine)
	_, err := snapset.Apply(ctx, w.trip, w.commands, snapset.Request{
		State: snapset.Present, Set: w.state.Set, Volumes: volumes, FreezeTimeout: time.Minute,
	})
	return err
}

func pick(states map[*Member]string, members []*Member, state string) []*Member {
	var out []*Member
	for _, m := range members {
		if states[m] == state {
			out = append(out, m)
		}
	}
	return out
}

func snapshots(members []*Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.snapshot())
	}
	return out
}

func origins(members []*Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.origin())
	}
	return out
}
