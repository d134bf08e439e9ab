package rollback

import (
	"context"
	"encoding/json"
	"errors"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
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
	begun, err := rb.survey.hasBegun(ctx)
	switch {
	case err != nil:
		return err
	case !begun && e.Step == StepDeferred: // the volumes are in use, unless a killed lvconvert has left one suspended
		if err := rb.merges.resumeSuspended(ctx); err != nil {
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
	if err := fault.All(rb.state.failure(), rb.steps.journalErr); err != nil {
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

// finish waits until every member is merged and LVM has finished its part, then removes the boot guard and closes the
// entry.
func (rb *rollback) finish(ctx context.Context) error {
	if err := rb.merges.wait(ctx); err != nil {
		return err
	}
	return rb.closeMerged(ctx)
}

// closeIfMerged closes the entry if all merges are finished. Otherwise a later run does. If the kernel has finished a
// merge, and LVM does not know it because its poller is gone, closeIfMerged has LVM finish the merge.
func (rb *rollback) closeIfMerged(ctx context.Context) error {
	bytesLeft, unreported, err := rb.survey.remaining(ctx)
	if errors.Is(err, fault.MergeFailed) {
		return nil // other runs can work on other volumes, so this is no failure for them
	}
	if err != nil || bytesLeft > 0 {
		return err
	}
	if len(unreported) > 0 {
		return rb.finish(ctx)
	}
	states, err := rb.survey.states(ctx)
	if err != nil {
		return err
	}
	if len(membersIn(states, rb.state.Members, stateDetached)) > 0 {
		return rb.finish(ctx)
	}
	if rb.state.isMergeComplete(states) {
		return rb.closeMerged(ctx)
	}
	return nil
}

// closeMerged removes the boot guard and closes the entry of a rollback whose merges are all finished.
func (rb *rollback) closeMerged(ctx context.Context) error {
	journey.EndPollers(ctx)
	if err := rb.guard.remove(ctx); err != nil {
		return err
	}
	if err := rb.run.Finish(stepMerged, journal.Done, rb.state); err != nil { // the next run tries to write it again
		rb.steps.journalErr = rb.steps.journalFault(err)
		journey.LogError(rb.steps.journalErr)
	}
	return nil
}
