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

// settle settles an interrupted rollback: it undoes the rollback if no merge has begun, and completes it otherwise.
func settle(ctx context.Context, run *journey.Run, e *journal.Entry) error {
	rb, err := reopen(run, e)
	if err != nil {
		return err
	}
	defer rb.close()
	if err := rb.connect(ctx); err != nil {
		return err
	}
	return rb.settle(ctx)
}

// settle is the function settle for a rollback that reopen has read.
func (rb *rollback) settle(ctx context.Context) error {
	e := rb.entry()
	if directionOf(e.Step) == lvmDecides {
		// An lvconvert of the killed run, or one that outlived its limit, may still be about to begin a merge.
		if err := journey.AwaitCommands(ctx, e); err != nil {
			return err
		}
	}
	begun, err := rb.hasBegun(ctx)
	switch {
	case err != nil:
		return err
	case !begun && e.Step == StepDeferred: // the volumes are in use
		return rb.closeUndone(ctx)
	case !begun:
		return rb.undo(ctx)
	case e.Step == StepDeferred:
		return rb.settleDeferred(ctx)
	case e.Step == StepStarted:
		return rb.closeIfMerged(ctx)
	}
	err = rb.mergeAndStartOrAbort(ctx)
	if rb.entry().Step == stepUndone { // everything is as before the rollback, so the next run can go on
		journey.LogError(err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := fault.All(rb.failure(), rb.journalErr); err != nil {
		// Perhaps nobody waits for this answer. The next call of the same task gets it too.
		journey.LogError(err)
	}
	return rb.closeIfMerged(ctx)
}

// reopen returns the rollback that entry e describes, and makes e the current entry of run.
func reopen(run *journey.Run, e *journal.Entry) (*rollback, error) {
	rb := newRollback(run, Request{})
	rb.state = &State{}
	if err := json.Unmarshal(e.State, rb.state); err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	run.Resume(e)
	return rb, nil
}

// closeIfMerged closes the entry if all merges are finished. Otherwise a later run does. If the kernel has finished a
// merge, and LVM does not know it because its poller is gone, closeIfMerged has LVM finish the merge.
func (rb *rollback) closeIfMerged(ctx context.Context) error {
	bytesLeft, unreported, err := rb.remaining(ctx)
	if errors.Is(err, fault.MergeFailed) {
		return nil // other runs can work on other volumes, so this is no failure for them
	}
	if err != nil || bytesLeft > 0 {
		return err
	}
	if len(unreported) > 0 {
		return rb.finish(ctx)
	}
	states, err := rb.memberStates(ctx)
	if err != nil {
		return err
	}
	if len(membersIn(states, rb.state.Members, stateDetached)) > 0 {
		return rb.finish(ctx)
	}
	if rb.isMergeComplete(states) {
		return rb.closeMerged(ctx)
	}
	return nil
}

// closeMerged removes the boot guard and closes the entry of a rollback whose merges are all finished.
func (rb *rollback) closeMerged(ctx context.Context) error {
	journey.EndPollers(ctx)
	if err := rb.removeGuard(ctx); err != nil {
		return err
	}
	if err := rb.run.Finish(stepMerged, journal.Done, rb.state); err != nil { // the next run tries to write it again
		rb.journalErr = journalFault(err)
		journey.LogError(rb.journalErr)
	}
	return nil
}

// HiddenCommands returns the hidden commands of a module that makes runs, by name: those that the runs' units call, and
// those that the units of the boot guard call. own are the kinds of runs that only this module makes; every module can
// also settle those of snapset and of rollback.
func HiddenCommands(own journey.Handlers) map[string]func(context.Context, []string) int {
	handlers := journey.Handlers{snapset.Kind: snapset.Handler(), Kind: Handler()}
	maps.Copy(handlers, own)
	commands := handlers.Internal()
	settleAll := commands["settle"]
	commands["guard"] = func(ctx context.Context, _ []string) int { return exitCode(guardBoot(ctx)) }
	commands["resume"] = func(ctx context.Context, args []string) int {
		code := settleAll(ctx, args)
		return max(code, exitCode(finishAfterBoot(ctx)))
	}
	return commands
}

// exitCode returns the exit code for err, and writes err to the log.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	return journey.LogError(err)
}

// disksLimit is how long the guard waits at boot for the disks of a volume group.
const disksLimit = 90 * time.Second

// guardBoot is the command of the boot guard, which runs before the members are mounted. For each rollback of which a
// merge has begun, it has every member merge. If it fails, the members are not mounted, because they hold data of
// different times.
func guardBoot(ctx context.Context) error {
	j, err := journal.Open(journey.JournalDir)
	if err != nil {
		return err
	}
	entries, err := j.Unfinished()
	errs := []error{err}
	for _, e := range entries {
		if e.Kind != Kind || directionOf(e.Step) == backward {
			continue
		}
		if j.ThisBoot(e) {
			continue // a daemon-reload during the rollback started the guard, not a boot
		}
		rb, err := reopen(&journey.Run{Journal: j}, e)
		if err == nil {
			err = rb.mergeAtBoot(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}

// mergeAtBoot has every member merge, if a merge has begun.
func (rb *rollback) mergeAtBoot(ctx context.Context) error {
	if err := rb.awaitDisks(ctx); err != nil {
		return err
	}
	if err := rb.lvm.Activate(ctx, originNames(rb.state.Members)...); err != nil {
		return err
	}
	if begun, err := rb.hasBegun(ctx); !begun || err != nil {
		return err // settle undoes what has not begun, after the volumes are mounted
	}
	journalMember, err := rb.waitingJournalMember(ctx)
	if err != nil {
		return err
	}
	if journalMember != nil {
		return rb.mergeAndReboot(ctx, journalMember)
	}
	defer rb.awaitLvconvert()
	if err := rb.merge(ctx); err != nil {
		return err
	}
	// With a fault the volumes are not mounted. Otherwise services could use data of different times.
	for _, f := range rb.notRolledBack() {
		return f
	}
	return nil
}

// awaitDisks waits until LVM finds the volume groups of all members, with all their disks (timeout).
func (rb *rollback) awaitDisks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, disksLimit)
	defer cancel()
	for {
		report, err := rb.lvm.Report(ctx)
		if err != nil {
			return err
		}
		var incomplete []string
		for _, group := range rb.state.groups() {
			if g, ok := report.Group(group); !ok || g.Partial {
				incomplete = append(incomplete, group)
			}
		}
		if len(incomplete) == 0 {
			return nil
		}
		select {
		case <-time.After(statusInterval):
		case <-ctx.Done():
			return fault.New(fault.Timeout, "volume group %s did not appear within %s; "+
				"its volumes are not mounted, because their rollback is not finished",
				strings.Join(incomplete, ", "), disksLimit).
				WithHint("bring its disks back and boot again, or run: systemctl start rewind-guard, then mount -a")
		}
	}
}

// finishAfterBoot waits for the merges that go on after a boot, so that the guard is removed when they are finished.
func finishAfterBoot(ctx context.Context) error {
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
		rb, err := reopen(&journey.Run{Journal: j}, e)
		if err == nil {
			err = rb.finish(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}
