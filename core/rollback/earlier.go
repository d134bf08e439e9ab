package rollback

import (
	"context"
	"encoding/json"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// answerRevertedJournal answers for a rollback that also rolled back the journal, and with it its own entry: a
// rollback, deferred to a boot, of the volume that holds the journal, such as the root file system. e is the entry of
// the set, which is what the journal shows then. The new entry that is written here makes the rollback known to the
// journal again.
func (rb *rollback) answerRevertedJournal(
	ctx context.Context, sel *selection, e *journal.Entry,
) (Result, error) {
	p, err := snapset.PlanOf(e)
	if err != nil {
		return Result{}, err
	}
	rb.state = &State{Set: p.Set, ID: p.ID, Taken: p.Time, Start: true}
	for _, m := range p.Members {
		member := &Member{
			VG: m.VG, LV: m.LV, Snapshot: m.Snapshot, DMName: m.DMName, Thin: m.Thin, Pool: m.Pool, COWSize: m.COW,
		}
		if v, ok := sel.view.Report.Volume(m.VG, m.Snapshot); ok && v.Merging {
			member.SnapshotDM, member.SnapshotID, member.Used = v.DMName, v.UUID, v.COWUsed
		}
		rb.state.Members = append(rb.state.Members, member)
	}
	states, _, err := rb.survey.look(ctx)
	if err != nil {
		return Result{}, err
	}
	for _, m := range membersIn(states, rb.state.Members, stateLost) {
		m.Lost = true
	}
	rb.state.Trouble = rb.state.notRolledBack()
	if rb.Check {
		return rb.answers.result(false, &journal.Entry{Step: StepStarted, Begun: e.Begun}), rb.state.failure()
	}
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), StepStarted, rb.state); err != nil {
		return Result{}, err
	}
	return rb.answerAndFinish(ctx, false)
}

// answerEarlier answers for a rollback that was made before. It starts the units that did not start after that
// rollback. What failed then and still fails is a failure of this call too, because the earlier call may never have
// been answered, as after a power cut.
func (rb *rollback) answerEarlier(ctx context.Context, e *journal.Entry) (Result, error) {
	rb.state = &State{}
	if err := json.Unmarshal(e.State, rb.state); err != nil {
		return Result{}, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	rb.state.addLeftStopped(rb.StartServices)
	if err := rb.state.dropRunning(ctx, rb.systemd.Active); err != nil {
		return Result{}, err
	}
	if rb.Check {
		return rb.answerEarlierCheck(e)
	}
	if err := rb.startFailed(ctx, rb.systemd.Start); err != nil {
		return Result{}, err
	}
	if e.Outcome == journal.Done {
		return rb.answers.result(len(rb.answers.unitsStartedNow) > 0, e), rb.state.failure()
	}
	rb.run.Resume(e)
	if e.Step == stepMerging {
		e.Step = StepStarted // this run has just settled it, and could not write that to the journal
	}
	if e.Step == StepDeferred {
		return rb.answers.result(false, e), nil
	}
	settledNow := e.Updated.After(rb.startedAt) // this run has settled it while it took the locks
	return rb.answerAndFinish(ctx, len(rb.answers.unitsStartedNow) > 0 || settledNow)
}

// answerEarlierCheck answers as answerEarlier does with Check: it names the units that would be started, and starts
// none.
func (rb *rollback) answerEarlierCheck(e *journal.Entry) (Result, error) {
	rb.answers.unitsStartedNow, rb.state.Failures = rb.state.failedUnits(), nil
	return rb.answers.result(len(rb.answers.unitsStartedNow) > 0, e), rb.state.failure()
}

// addLeftStopped adds to the failures the services that the rollback left stopped, so that startFailed starts them,
// unless this call asks to leave them stopped too (start is false). They stay stopped if a member is lost, because the
// volumes then hold data of different times.
func (st *State) addLeftStopped(start bool) {
	isMixed := slices.ContainsFunc(st.Members, func(m *Member) bool { return m.Lost })
	if st.Start || !start || isMixed {
		return
	}
	st.Start = true
	for _, unit := range st.Services.Active {
		failure := service.Failure{Unit: unit, Result: "left", Message: "it was left stopped"}
		st.Failures = append(st.Failures, failure)
	}
}

// dropRunning removes from the failures the units that run by now, because somebody has started them.
func (st *State) dropRunning(ctx context.Context, active func(context.Context, string) (bool, error)) error {
	var failures []service.Failure
	for _, f := range st.Failures {
		runs, err := active(ctx, f.Unit)
		if err != nil {
			return err
		}
		if !runs {
			failures = append(failures, f)
		}
	}
	st.Failures = failures
	return nil
}

// startFailed starts the units that did not start after the rollback. The units that fail again remain as the failures
// of the rollback.
func (rb *rollback) startFailed(
	ctx context.Context, start func(context.Context, service.Plan) ([]service.Failure, error),
) error {
	failed := rb.state.failedUnits()
	if len(failed) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(rb.Timeout, undoLimit))
	defer cancel()
	plan := rb.state.Services
	plan.Active = failed
	failures, err := start(ctx, plan)
	if err != nil {
		return fault.New(fault.Of(err).Code, "the volumes were rolled back before, but %w", err)
	}
	rb.state.Failures = failures
	stillFailed := rb.state.failedUnits()
	hasFailed := func(unit string) bool { return slices.Contains(stillFailed, unit) }
	rb.answers.unitsStartedNow = slices.DeleteFunc(slices.Clone(failed), hasFailed)
	return nil
}
