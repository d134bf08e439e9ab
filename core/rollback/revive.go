package rollback

import (
	"context"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// addLeftStopped adds to the failures the services that the rollback left stopped, so that startFailed starts them,
// unless this call asks to leave them stopped too. They stay stopped if a member is lost, because the volumes then hold
// data of different times.
func (rb *rollback) addLeftStopped() {
	isMixed := slices.ContainsFunc(rb.state.Members, func(m *Member) bool { return m.Lost })
	if rb.state.Start || !rb.StartServices || isMixed {
		return
	}
	rb.state.Start = true
	for _, unit := range rb.state.Services.Active {
		failure := service.Failure{Unit: unit, Result: "left", Message: "it was left stopped"}
		rb.state.Failures = append(rb.state.Failures, failure)
	}
}

// dropRunning removes from the failures the units that run by now, because somebody has started them.
func (rb *rollback) dropRunning(ctx context.Context, active func(context.Context, string) (bool, error)) error {
	var failures []service.Failure
	for _, f := range rb.state.Failures {
		runs, err := active(ctx, f.Unit)
		if err != nil {
			return err
		}
		if !runs {
			failures = append(failures, f)
		}
	}
	rb.state.Failures = failures
	return nil
}

// startFailed starts the units that did not start after the rollback. The units that fail again remain as the failures
// of the rollback.
func (rb *rollback) startFailed(
	ctx context.Context, start func(context.Context, service.Plan) ([]service.Failure, error),
) error {
	failed := rb.failedUnits()
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
	stillFailed := rb.failedUnits()
	hasFailed := func(unit string) bool { return slices.Contains(stillFailed, unit) }
	rb.unitsStartedNow = slices.DeleteFunc(slices.Clone(failed), hasFailed)
	return nil
}

// failedUnits returns the units that did not start, in the order in which they are started.
func (rb *rollback) failedUnits() []string {
	var units []string
	for _, unit := range rb.state.Services.Active {
		if slices.ContainsFunc(rb.state.Failures, func(f service.Failure) bool { return f.Unit == unit }) {
			units = append(units, unit)
		}
	}
	return units
}

// answerEarlierCheck answers as answerEarlier does with Check: it names the units that would be started, and starts
// none.
func (rb *rollback) answerEarlierCheck(e *journal.Entry) (ansible.Result, error) {
	rb.unitsStartedNow, rb.state.Failures = rb.failedUnits(), nil
	return rb.result(len(rb.unitsStartedNow) > 0, e), rb.failure()
}
