package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/snapset"
)

// The states of a member.
const (
	waiting  = "waiting"  // not merging yet
	deferred = "deferred" // recorded as merging, but the kernel does not
	merging  = "merging"
	detached = "detached" // merged, but its COW volume is still there
	merged   = "merged"
	lost     = "lost"            // its COW space overflowed before its merge began
	forsaken = "not_rolled_back" // lost, and somebody has removed its snapshot since
)

const (
	// closeLimit bounds the wait for a volume that something opened just when its merge was to begin (udev does).
	closeLimit = 5 * time.Minute
	// tick is how often the kernel is asked while nothing tells of a change: device-mapper has no event for it.
	tick = 500 * time.Millisecond
	// glance is how often it is asked while LVM is about to make it merge and services are down.
	glance = 40 * time.Millisecond
)

// merge has LVM merge all members and returns when the kernel merges each of them, or has merged it, and they can be
// written to again.
func (w *walk) merge(ctx context.Context) error {
	err := w.mergeAll(ctx)
	if open := w.unprotect(ctx); err == nil {
		err = open
	}
	return err
}

func (w *walk) mergeAll(ctx context.Context) error {
	w.trip.Progress("merging", -1)
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	var failed error
	var late []*Member  // whose merges LVM has put off
	var since time.Time // when that was first seen
	tried, back := 0, false
	if w.ready {
		tried, failed = 1, w.begin(ctx, w.state.Members)
	}
	for {
		states, gone, err := w.survey(ctx)
		if ctx.Err() != nil && len(late) > 0 {
			_, err := w.heldOpen(context.WithoutCancel(ctx), late, closeLimit)
			return err
		}
		if err != nil {
			return fault.All(failed, err)
		}
		if gone != nil && w.untouched(states) {
			return gone
		}
		if gone != nil {
			return fault.All(gone, w.mourn(pick(states, w.state.Members, lost)))
		}
		wait := pick(states, w.state.Members, waiting)
		late = pick(states, w.state.Members, deferred)
		switch {
		case len(wait)+len(late) == 0:
			return w.awake(ctx)
		case len(wait) > 0 && tried < 2:
			tried++
			w.release() // LVM may lack room for its archive
			failed = w.begin(ctx, wait)
			continue
		case len(wait) > 0:
			return w.refused(wait, failed, w.unmerge(ctx, states))
		case since.IsZero():
			since = time.Now()
			if err := w.awake(ctx); err != nil { // whoever looks at what a killed command left suspended keeps it open
				return err
			}
		case !back && time.Since(since) > w.patience:
			back = true
			if done, err := w.heldOpen(ctx, late, w.patience); done {
				return err
			}
		}
		if err := w.unlatch(ctx, late); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// mourn writes down which members are lost past the point of no return: once their snapshots are removed, LVM shows them as
// it shows those that are merged.
func (w *walk) mourn(members []*Member) error {
	for _, m := range members {
		m.Lost = true
	}
	return w.record(w.entry().Step, w.state)
}

// begin has LVM merge members, and returns as soon as the kernel does: that it does is the proof, while LVM goes on to
// wait for udev, to back up its metadata and to start its poller. Thin members are merged only when LVM's command has ended.
func (w *walk) begin(ctx context.Context, members []*Member) error {
	if err := w.protect(ctx, members); err != nil {
		return err
	}
	if !w.ahead {
		return w.lvm.Merge(ctx, snapshots(members)...)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.lvm.Merge(context.WithoutCancel(ctx), snapshots(members)...) }()
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-look.C:
		}
		status, err := w.lvm.Status(ctx)
		waits := func(m *Member) bool { return kernelState(status[m.DMName]) != merging }
		if err == nil && !slices.ContainsFunc(members, waits) {
			w.merger = ended
			return nil
		}
	}
}

// join waits for the end of LVM's command. What it says does not count any more: the kernel merges.
func (w *walk) join() {
	if w.merger != nil {
		<-w.merger
		w.merger = nil
	}
}

// refused says that LVM does not take members for merging. Without a way back the services stay down.
func (w *walk) refused(wait []*Member, because, noWayBack error) error {
	if because == nil {
		because = fault.New(fault.MergeFailed, "LVM reports no error")
	}
	if noWayBack == nil {
		return fault.New(fault.MergeFailed, "LVM did not begin to merge %s, and nothing was rolled back: %w",
			strings.Join(snapshots(wait), ", "), because).
			WithHint("mend the cause and run the same task again")
	}
	return fault.New(fault.MergeFailed, "%s cannot be merged; the services stay down, because %w: %w",
		strings.Join(snapshots(wait), ", "), noWayBack, because).
		WithHint("lvs -a shows each snapshot; mend the cause and run the same task again: it goes on from here")
}

// unlatch starts merges that LVM deferred because it found their volumes open. Nothing of ours is: it was udev, or a
// monitoring tool that looked for a moment; or somebody has mounted one.
func (w *walk) unlatch(ctx context.Context, late []*Member) error {
	if err := w.evict(ctx, late); err != nil && !errors.Is(err, fault.Busy) { // who is busy there is named at the limit
		return err
	}
	if err := w.protect(ctx, late); err != nil {
		return err
	}
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
	case <-ctx.Done():
	}
	return nil
}

// finish waits until every member is merged and LVM has tidied up, then takes the boot guard away and closes the entry.
func (w *walk) finish(ctx context.Context) error {
	if err := w.waitMerged(ctx); err != nil {
		return err
	}
	return w.done(ctx)
}

// stalled is how long a merge may make no progress at all before the wait for it ends. The merge itself goes on.
const stalled = 10 * time.Minute

// pollAgain is how long LVM may take to end a merge that it was told of, before it is told again.
const pollAgain = 10 * time.Second

func (w *walk) waitMerged(ctx context.Context) error {
	last, moved, told := int64(-1), time.Now(), time.Time{}
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
			if w.settled(states) {
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
		if len(idle) > 0 && time.Since(told) > pollAgain {
			// The kernel is done and LVM does not know yet: its poller looks late, or is gone. Watching twice does no harm.
			// LVM 2.03.31 was seen to fail at the end of a merge that a killed lvconvert had begun, with the volume suspended.
			if err := w.awake(ctx); err != nil {
				return err
			}
			if err := w.lvm.Poll(ctx, origins(idle)...); err != nil {
				return err
			}
			told = time.Now()
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

// awake lets volumes go on that an LVM command that was killed left suspended, from LVM's metadata: whoever mounts or writes
// would wait for ever. While a command of LVM's is at work it has the group's lock, for which this one waits.
func (w *walk) awake(ctx context.Context) error {
	if w.merger != nil {
		return nil // ours is under way, and resumes what it suspends
	}
	volumes := map[string]string{}
	for _, m := range w.state.Members {
		volumes[m.DMName] = m.origin()
	}
	return w.lvm.Unsuspend(ctx, volumes)
}

// settled says that there is nothing left to merge.
func (w *walk) settled(states map[*Member]string) bool {
	return len(pick(states, w.state.Members, merged))+len(pick(states, w.state.Members, forsaken)) == len(w.state.Members)
}

// sweep removes the COW volumes that LVM left behind. LVM may just have done so itself.
func (w *walk) sweep(ctx context.Context, detached []*Member) error {
	err := w.lvm.Remove(ctx, snapshots(detached)...)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
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
