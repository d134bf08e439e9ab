package rollback

import (
	"context"
	"encoding/json"
	"errors"
	"maps"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// settle settles an interrupted rollback: it undoes the rollback if no merge has begun, and completes it otherwise.
func (s Server) settle(ctx context.Context, run *journey.Run, e *journal.Entry) error {
	rb, err := s.reopen(run, e)
	if err != nil {
		return err
	}
	defer rb.close()
	if err := rb.connect(ctx); err != nil {
		return err
	}
	return rb.settle(ctx)
}

// settle is Server.settle for a rollback that reopen has read.
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
	case !begun && e.Step == StepDeferred: // the volumes are in use, unless a killed lvconvert has left one suspended
		if err := rb.resumeSuspended(ctx); err != nil {
			return err
		}
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
func (s Server) reopen(run *journey.Run, e *journal.Entry) (*rollback, error) {
	rb := s.newRollback(run, Request{})
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
		rb.journalErr = rb.journalFault(err)
		journey.LogError(rb.journalErr)
	}
	return nil
}

// HiddenCommands returns the hidden commands of a module that makes runs, by name: those that the runs' units call, and
// those that the units of the boot guard call. own are the kinds of runs that only this module makes; every module can
// also settle those of snapset and of rollback.
func HiddenCommands(own journey.Handlers) map[string]func(context.Context, []string) int {
	s := thisServer()
	handlers := journey.Handlers{snapset.Kind: s.Sets.Handler(), Kind: s.Handler()}
	maps.Copy(handlers, own)
	commands := handlers.Internal()
	settleAll := commands["settle"]
	commands["guard"] = func(ctx context.Context, _ []string) int { return exitCode(s.atBoot(ctx, s.GuardBoot)) }
	commands["resume"] = func(ctx context.Context, args []string) int {
		code := settleAll(ctx, args)
		return max(code, exitCode(s.atBoot(ctx, s.FinishAfterBoot)))
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
