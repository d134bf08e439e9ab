package rollback

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// settle goes on with a rollback that ended in the middle: back if nothing was merged, on to the end if the point of no
// return was passed.
func settle(ctx context.Context, t *journey.Trip, e *journal.Entry) error {
	w, err := reopen(t, e)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.connect(ctx); err != nil {
		return err
	}
	return w.settle(ctx)
}

func (w *walk) settle(ctx context.Context) error {
	e := w.entry()
	if wayOf(e.Step) == lvmDecides {
		// A merge that the killed journey asked for may still be about to begin.
		if err := journey.AwaitCommands(ctx, e.ID); err != nil {
			return err
		}
	}
	begun, err := w.hasBegun(ctx)
	switch {
	case err != nil:
		return err
	case !begun && e.Step == StepDeferred: // the volumes are in use
		return w.undone(ctx)
	case !begun:
		return w.undo(ctx)
	case e.Step == StepDeferred:
		return w.settleDeferred(ctx)
	case e.Step == StepStarted:
		return w.tidy(ctx)
	}
	err = w.ascendOrTurnBack(ctx)
	if w.entry().Step == stepUndone { // all is as it was: whoever comes next is not in its way
		journey.Say(err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := fault.All(w.failure(), w.unwritten); err != nil {
		// Nobody may be there to be answered; the next call of the same is, too.
		journey.Say(err)
	}
	return w.tidy(ctx)
}

func reopen(t *journey.Trip, e *journal.Entry) (*walk, error) {
	w := newWalk(t, Request{})
	w.state = &State{}
	if err := json.Unmarshal(e.State, w.state); err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	t.Resume(e)
	return w, nil
}

// tidy closes the entry if the merges are done; if not, whoever comes next does. A merge that the kernel has finished
// and LVM's poller has not told LVM of is told.
func (w *walk) tidy(ctx context.Context) error {
	bytes, idle, err := w.left(ctx)
	if errors.Is(err, fault.MergeFailed) {
		return nil // its volume is in nobody else's way
	}
	if err != nil || bytes > 0 {
		return err
	}
	if len(idle) > 0 {
		return w.finish(ctx)
	}
	states, err := w.states(ctx)
	if err != nil {
		return err
	}
	if len(pick(states, w.state.Members, detached)) > 0 {
		return w.finish(ctx)
	}
	if w.settled(states) {
		return w.done(ctx)
	}
	return nil
}

// done closes the entry of a rollback whose merges are all done.
func (w *walk) done(ctx context.Context) error {
	journey.EndPollers(ctx)
	if err := w.removeGuard(ctx); err != nil {
		return err
	}
	if err := w.trip.Finish(stepMerged, journal.Done, w.state); err != nil { // the next run tries again
		w.unwritten = unwritten(err)
		journey.Say(w.unwritten)
	}
	return nil
}

// Internal are the hidden commands of a module that makes journeys: those of every kind that leaves records, of the
// kinds that only this module makes, and what the boot guard's units run.
func Internal(own journey.Handlers) map[string]func(context.Context, []string) int {
	handlers := journey.Handlers{snapset.Kind: snapset.Handler(), Kind: Handler()}
	maps.Copy(handlers, own)
	commands := handlers.Internal()
	settleAll := commands["settle"]
	commands["guard"] = func(ctx context.Context, _ []string) int { return exit(guard(ctx)) }
	commands["resume"] = func(ctx context.Context, args []string) int {
		code := settleAll(ctx, args)
		return max(code, exit(outlast(ctx)))
	}
	return commands
}

func exit(err error) int {
	if err == nil {
		return 0
	}
	return journey.Say(err)
}

// bootLimit is how long the guard waits at boot for the disks of a volume group.
const bootLimit = 90 * time.Second

// guard runs at boot before the members are mounted: it sees to it that every member of a rollback of which a merge has
// begun merges. If it fails, the members are not mounted, because what they hold is a mix.
func guard(ctx context.Context) error {
	j, err := journal.Open(journey.JournalDir)
	if err != nil {
		return err
	}
	entries, err := j.Unfinished()
	errs := []error{err}
	for _, e := range entries {
		if e.Kind != Kind || wayOf(e.Step) == turnsBack {
			continue
		}
		if j.ThisBoot(e) {
			continue // started by a daemon-reload in the middle of a rollback, not by a boot
		}
		w, err := reopen(&journey.Trip{Journal: j}, e)
		if err == nil {
			err = w.atBoot(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}

func (w *walk) atBoot(ctx context.Context) error {
	if err := w.disks(ctx); err != nil {
		return err
	}
	if err := w.lvm.Activate(ctx, origins(w.state.Members)...); err != nil {
		return err
	}
	if begun, err := w.hasBegun(ctx); !begun || err != nil {
		return err // what has not begun is undone by settle, once the volumes are mounted
	}
	home, err := w.homeWaits(ctx)
	if err != nil {
		return err
	}
	if home != nil {
		return w.onceMore(ctx, home)
	}
	defer w.join()
	if err := w.merge(ctx); err != nil {
		return err
	}
	for _, t := range w.notRolledBack() { // mounted, and with their services started, they would be in use as a mix
		return t
	}
	return nil
}

// disks waits until LVM sees the volume groups of all members, whole.
func (w *walk) disks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		report, err := w.lvm.Report(ctx)
		if err != nil {
			return err
		}
		var lack []string
		for _, group := range w.state.groups() {
			if g, ok := report.Group(group); !ok || g.Partial {
				lack = append(lack, group)
			}
		}
		if len(lack) == 0 {
			return nil
		}
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return fault.New(fault.Timeout, "volume group %s did not appear within %s; its volumes are not mounted, because their rollback is not finished",
				strings.Join(lack, ", "), bootLimit).
				WithHint("bring its disks back and boot again, or run: systemctl start rewind-guard, then mount -a")
		}
	}
}

// outlast waits for the merges that go on after a boot, so that the guard goes away when they are done.
func outlast(ctx context.Context) error {
	j, err := journal.Open(journey.JournalDir)
	if err != nil {
		return err
	}
	entries, err := j.Unfinished()
	errs := []error{err}
	for _, e := range entries {
		if e.Kind != Kind || e.Step != StepStarted {
			continue
		}
		w, err := reopen(&journey.Trip{Journal: j}, e)
		if err == nil {
			err = w.finish(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}
