// Package rollback rolls volumes back to a set of LVM snapshots: it stops services, unmounts the volumes, has LVM merge
// the snapshots, mounts the volumes again and starts the services.
//
// Everything is checked before the first service is stopped, and checked again when nothing writes to the volumes any
// more. What fails before LVM has begun to merge is undone, and the services run again as before. Past that point of no
// return the rollback only goes forward: every member is merged, even if the process is killed or the power fails, and
// until the kernel merges every member no volume is mounted and no service is started.
//
// Each step is written to the journal before it is taken, and the code of each step asks LVM and the kernel what is
// left to do. An interrupted rollback is therefore continued by the same code: the Settle of Handler undoes it if LVM's
// metadata shows that no merge has begun, and completes it otherwise.
package rollback

import (
	"context"
	"encoding/json"
	"errors"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Kind is the kind of run, and of journal entry, that is a rollback.
const Kind = "rollback"

func (s Server) do(ctx context.Context, run *journey.Run, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	result, err := s.Apply(ctx, run, req)
	return result.ForAnsible(), err
}

// Apply makes the rollback that the request asks for, or, with Check, says what it would do.
//
// Faults before the point of no return: not_found, bad_arguments, snapshot_invalid, merging, unsupported, pool_damaged,
// busy, no_key, no_space, locked, merge_failed and service_failed. Faults after it: merge_failed, snapshot_invalid,
// busy, mount_failed and service_failed. Faults at any time: timeout, interrupted, journal_damaged, command_failed and
// internal.
func (s Server) Apply(ctx context.Context, run *journey.Run, req Request) (Result, error) {
	rb := s.newRollback(run, req)
	defer rb.close()
	result, err := rb.apply(ctx)
	result.Commands = rb.commands.Commands()
	result.Warnings = rb.warnings
	return result, err
}

// Apply is Server.Apply for the server that the program runs on.
func Apply(ctx context.Context, run *journey.Run, req Request) (Result, error) {
	return thisServer().Apply(ctx, run, req)
}

func (rb *rollback) apply(ctx context.Context) (Result, error) {
	if err := rb.connect(ctx); err != nil {
		return Result{}, err
	}
	sel, earlier, err := rb.plan.selectAndLock(ctx)
	if err != nil {
		return Result{}, err
	}
	if earlier != nil && earlier.Kind != Kind {
		return rb.answerRevertedJournal(ctx, sel, earlier)
	}
	if earlier != nil {
		return rb.answerEarlier(ctx, earlier)
	}
	f, err := rb.plan.check(ctx, sel)
	if err != nil {
		return Result{}, err
	}
	if err := rb.plan.findGuardedUnits(ctx, f); err != nil {
		return Result{}, err
	}
	if rb.steps.lvmBackupDirs, err = rb.lvm.CopyDirs(ctx); err != nil {
		return Result{}, err
	}
	if err := rb.steps.checkSpace(); err != nil {
		return Result{}, err
	}
	if rb.Check {
		return rb.answers.preview(ctx, f)
	}
	limited, cancel := context.WithTimeout(ctx, rb.Timeout)
	defer cancel()
	if len(f.holders) > 0 { // only with Defer: otherwise check refuses
		journalMember, err := rb.plan.findJournalMember(f)
		if err != nil {
			return Result{}, err
		}
		return rb.deferMerges(limited, journalMember)
	}
	if err := rb.execute(limited, f.toEnd); err != nil {
		return rb.answers.result(directionOf(rb.entry().Step) != backward, rb.entry()), err
	}
	return rb.answerAndFinish(ctx, true)
}

// execute takes all steps from checked to started. The merges may go on after it.
func (rb *rollback) execute(ctx context.Context, toEnd []processToEnd) error {
	if err := rb.writeOut(ctx); err != nil {
		return err
	}
	if err := rb.steps.reserveSpace(); err != nil {
		return err
	}
	defer rb.steps.releaseSpace()
	rb.merges.keepMetadata(ctx)
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), stepChecked, rb.state); err != nil {
		return rb.steps.journalFault(err)
	}
	if err := rb.stopAndUnmount(ctx, toEnd); err != nil {
		return rb.abort(ctx, err)
	}
	if err := rb.steps.record(stepMerging, rb.state); err != nil {
		return rb.abort(ctx, err)
	}
	return rb.mergeAndStartOrAbort(ctx)
}

// mergeAndStartOrAbort is mergeAndStart. If that fails and no merge has begun, nor can begin any more, the rollback is
// undone.
func (rb *rollback) mergeAndStartOrAbort(ctx context.Context) error {
	err := rb.mergeAndStart(ctx)
	if err == nil || rb.entry().Step != stepMerging {
		return err
	}
	if errors.Is(err, lvm.ErrUnfinished) { // it may begin the merges at any later time; settle finishes the rollback
		return unknownStateFault(err)
	}
	if begun, surveyErr := rb.survey.hasBegun(context.WithoutCancel(ctx)); begun || surveyErr != nil {
		return fault.All(err, unknownStateFault(surveyErr))
	}
	return rb.abort(ctx, err)
}

// unknownStateFault returns the fault for services that stay stopped because cause keeps Rewind from finding out
// whether LVM merges. It returns nil if cause is nil.
func unknownStateFault(cause error) error {
	if cause == nil {
		return nil
	}
	return fault.New(fault.Of(cause).Code,
		"whether LVM merges cannot be found out, so the services stay down: %w", cause).
		WithHint("run the same task again: it goes on, or puts everything back; mount nothing before")
}

// answerAndFinish answers whoever asked for the rollback, and then waits until the merges are finished, so that the
// boot guard is removed as soon as possible. With Wait it answers only after that, unless something has failed.
func (rb *rollback) answerAndFinish(ctx context.Context, changed bool) (Result, error) {
	failed := rb.state.failure()
	rb.steps.warnOfJournal()
	if !rb.Wait || failed != nil {
		if err := rb.run.Answer(rb.answers.result(changed, rb.entry()).ForAnsible(), failed); err != nil {
			return rb.answers.result(changed, rb.entry()), err
		}
	}
	rb.run.Unlock()
	err := rb.finish(ctx)
	rb.steps.warnOfJournal()
	if failed != nil {
		return rb.answers.result(changed, rb.entry()), failed
	}
	return rb.answers.result(changed, rb.entry()), err
}
