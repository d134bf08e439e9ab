package rollback

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// deferred leaves the merges to the next activation of the volumes, which for most is the next boot. home is the member
// that holds the journal; nil if none does.
func (w *walk) deferred(ctx context.Context, home *Member) (ansible.Result, error) {
	w.state.Services = service.Plan{}
	if home != nil {
		w.state.Home = home.origin()
	}
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
	if err := w.mergeLater(ctx, w.without(home), home); err != nil {
		return w.undeferred(ctx, err)
	}
	return w.result(true, w.entry()), nil
}

// mergeLater has LVM defer the merges. LVM commits one after the other, and the power may fail in between: the member
// that holds the journal comes last, when all others are seen to be deferred. Merged without them it would take the
// journal along, and nobody would know that they are to be merged.
func (w *walk) mergeLater(ctx context.Context, others []*Member, home *Member) error {
	if err := w.lvm.Merge(ctx, snapshots(others)...); err != nil || home == nil {
		return err
	}
	states, err := w.states(ctx)
	if err != nil {
		return err
	}
	if len(pick(states, others, deferred)) < len(others) {
		return fault.New(fault.MergeFailed, "LVM did not defer the merge of %s, and reports no error",
			strings.Join(snapshots(others), ", "))
	}
	failpoint.Hit("rollback.deferred.others")
	if err := w.leaveWord(ctx, home); err != nil {
		return err
	}
	return w.lvm.Merge(ctx, home.snapshot())
}

// without are the members but for one.
func (w *walk) without(one *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(w.state.Members), func(m *Member) bool { return m == one })
}

// journalHome is the member whose file system holds the journal: mostly the root volume. nil if none does.
func (w *walk) journalHome(f *found) (*Member, error) {
	var st unix.Stat_t
	if err := unix.Stat(journey.State, &st); err != nil {
		return nil, fault.New(fault.Internal, "%s: %w", journey.State, err)
	}
	for i := range f.targets {
		if fs := f.targets[i].FS; unix.Mkdev(fs.Major, fs.Minor) == st.Dev {
			return w.state.Members[i], nil
		}
	}
	return nil, nil
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

// leaveWord tags the member that holds the journal: see snapset.BackTag.
func (w *walk) leaveWord(ctx context.Context, home *Member) error {
	if w.state.ID == "" { // nobody has written down that snapshots made by hand were taken
		return nil
	}
	return w.lvm.AddTags(ctx, []string{snapset.BackTag(w.state.ID)}, home.origin())
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
	wait := pick(states, w.state.Members, waiting)
	if len(wait) > 0 && w.trip.Journal.ThisBoot(w.entry()) {
		if err := w.deferRest(ctx, wait); err != nil {
			journey.Say(err) // the guard tries it again
		}
		return nil
	}
	if len(pick(states, w.state.Members, deferred))+len(wait) > 0 {
		return nil
	}
	w.state.Trouble = w.notRolledBack()
	w.reached(StepStarted)
	return w.tidy(ctx)
}

// deferRest has LVM defer the merges that a journey which was killed had not come to.
func (w *walk) deferRest(ctx context.Context, wait []*Member) error {
	open, err := w.holdOpen()
	if err != nil {
		return err
	}
	defer open.release()
	var home *Member
	others := slices.DeleteFunc(slices.Clone(wait), func(m *Member) bool {
		if m.origin() == w.state.Home {
			home = m
		}
		return m == home
	})
	return w.mergeLater(ctx, others, home)
}

// onceMore finishes at boot what a power cut interrupted between the deferred merges of the others and that of the
// member that holds the journal. That one is in use, so its merge waits for yet another boot, which is brought about
// here: until then no other member may be mounted. A boot that finds its merge deferred already brings about none.
func (w *walk) onceMore(ctx context.Context, home *Member) error {
	all := w.state.Members
	w.state.Members = w.without(home)
	err := w.merge(ctx)
	w.join()
	w.state.Members = all
	if err != nil {
		return err
	}
	if err := w.leaveWord(ctx, home); err != nil {
		return err
	}
	if err := w.lvm.Merge(ctx, home.snapshot()); err != nil {
		return err
	}
	states, err := w.states(ctx)
	if err != nil || states[home] != deferred {
		return err // merged at once: nothing holds it open
	}
	reboot := command.Cmd{Argv: []string{"systemctl", "--no-block", "reboot"}, Changes: true}
	if _, err := w.commands.Run(ctx, reboot); err != nil {
		return fault.New(fault.Busy, "%s is merged at the next boot, until which no volume of the set is mounted: %w",
			home.origin(), err).WithHint("systemctl reboot")
	}
	return fault.New(fault.Busy, "%s is merged at the next boot, for which this server goes down now: "+
		"its rollback with %s was interrupted", home.origin(), strings.Join(origins(w.without(home)), ", "))
}

// homeWaits is the member that holds the journal, if LVM was not told to merge it. The others merge, then.
func (w *walk) homeWaits(ctx context.Context) (*Member, error) {
	for _, m := range w.state.Members {
		if w.entry().Step != StepDeferred || m.origin() != w.state.Home {
			continue
		}
		states, err := w.states(ctx)
		if err != nil || states[m] != waiting {
			return nil, err
		}
		return m, nil
	}
	return nil, nil
}
