package rollback

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// deferred leaves the merges to the next activation of the volumes, which for most is the next boot.
func (w *walk) deferred(ctx context.Context) (ansible.Result, error) {
	w.state.Services = service.Plan{}
	if err := w.reserve(); err != nil {
		return ansible.Result{}, err
	}
	defer w.release()
	if err := w.trip.Begin(Kind, w.name(), w.state.groups(), stepChecked, w.state); err != nil {
		return ansible.Result{}, unwritten(err)
	}
	if err := w.installGuard(); err != nil {
		return ansible.Result{}, w.back(ctx, err)
	}
	if err := w.record(StepDeferred, w.state); err != nil {
		return ansible.Result{}, w.back(ctx, err)
	}
	open, err := w.holdOpen()
	if err != nil {
		return ansible.Result{}, w.back(ctx, err)
	}
	defer open.release()
	if err := w.leaveWord(ctx, open); err != nil {
		return ansible.Result{}, w.back(ctx, err)
	}
	if err := w.lvm.Merge(ctx, snapshots(w.state.Members)...); err != nil {
		return w.undeferred(ctx, err)
	}
	return w.result(true, w.entry()), nil
}

// deviceDir is where udev puts the volumes' names; tests have one of their own.
var deviceDir = "/dev"

// held are devices that are open.
type held []*os.File

// holdOpen opens the members' volumes while LVM is told to merge them: it begins at once with those that are closed, and
// they would be rolled back while the others wait.
func (w *walk) holdOpen() (held, error) {
	var open held
	for _, m := range w.state.Members {
		f, err := os.Open(filepath.Join(deviceDir, m.origin()))
		if err != nil {
			open.release()
			return nil, fault.New(fault.Busy, "open %s, so that its merge waits as the others do: %w", m.origin(), err).
				WithHint("lvchange -ay %s", m.origin())
		}
		open = append(open, f)
	}
	return open, nil
}

// leaveWord tags the volume that holds the journal, if one of the set's does: see snapset.BackTag. One that the file system's
// device number does not lead to, an encrypted one or one of btrfs, is not found.
func (w *walk) leaveWord(ctx context.Context, open held) error {
	if w.state.ID == "" { // nobody has written down that snapshots made by hand were taken
		return nil
	}
	var journal unix.Stat_t
	if err := unix.Stat(journey.State, &journal); err != nil {
		return fault.New(fault.Internal, "%s: %w", journey.State, err)
	}
	for i, m := range w.state.Members {
		var volume unix.Stat_t
		if err := unix.Fstat(int(open[i].Fd()), &volume); err != nil {
			return fault.New(fault.Internal, "%s: %w", m.origin(), err)
		}
		if volume.Rdev == journal.Dev {
			return w.lvm.AddTags(ctx, []string{snapset.BackTag(w.state.ID)}, m.origin())
		}
	}
	return nil
}

func (h held) release() {
	for _, f := range h {
		_ = f.Close()
	}
}

// undeferred follows a merge that LVM refused: back if that is so for all members, else the ones it took are merged at
// their next activation, which nothing takes back.
func (w *walk) undeferred(ctx context.Context, because error) (ansible.Result, error) {
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultLimit)
	defer cancel()
	states, gone, err := w.survey(look)
	if err != nil {
		return w.result(true, w.entry()), fault.All(because, err)
	}
	var refused, taken []*Member
	for _, m := range w.state.Members {
		if states[m] == waiting || states[m] == lost {
			refused = append(refused, m)
		} else {
			taken = append(taken, m)
		}
	}
	switch {
	case len(taken) == 0:
		err := w.back(ctx, because)
		return w.result(false, w.entry()), err
	case len(refused) == 0: // it is what LVM has recorded that counts
		return w.result(true, w.entry()), nil
	}
	err = fault.New(fault.Of(because).Code,
		"LVM did not take %s, but %s is merged all the same, at the latest at the next boot, and nothing takes that back: %w",
		strings.Join(snapshots(refused), ", "), strings.Join(snapshots(taken), ", "), because).
		WithHint("mend the cause before the next boot, which tries the others again: until all are merged it mounts none of the volumes")
	return w.result(true, w.entry()), fault.All(err, gone)
}

// settleDeferred looks whether a deferred rollback has come: after the boot it waited for, all members merge.
func (w *walk) settleDeferred(ctx context.Context) error {
	states, err := w.states(ctx)
	if err != nil {
		return err
	}
	if len(pick(states, w.state.Members, deferred))+len(pick(states, w.state.Members, waiting)) > 0 {
		return nil
	}
	w.reached(StepStarted)
	return w.tidy(ctx)
}
