package rollback

import (
	"context"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// wanted has the services started that the rollback left stopped for a look, if this call does not ask for that. On
// a mix of times they stay down.
func (w *walk) wanted() {
	mix := slices.ContainsFunc(w.state.Members, func(m *Member) bool { return m.Lost })
	if w.state.Start || !w.StartServices || mix {
		return
	}
	w.state.Start = true
	for _, unit := range w.state.Services.Active {
		left := service.Failure{Unit: unit, Result: "left", Message: "it was left stopped"}
		w.state.Failures = append(w.state.Failures, left)
	}
}

// forgive drops the failures of units that run by now: somebody has started them since.
func (w *walk) forgive(ctx context.Context, active func(context.Context, string) (bool, error)) error {
	var down []service.Failure
	for _, f := range w.state.Failures {
		up, err := active(ctx, f.Unit)
		if err != nil {
			return err
		}
		if !up {
			down = append(down, f)
		}
	}
	w.state.Failures = down
	return nil
}

// revive starts the units that did not start after the rollback, and keeps those that fail again as its failures.
func (w *walk) revive(ctx context.Context, start func(context.Context, service.Plan) ([]service.Failure, error)) error {
	down := w.down()
	if len(down) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(w.Timeout, backLimit))
	defer cancel()
	plan := w.state.Services
	plan.Active = down
	failures, err := start(ctx, plan)
	if err != nil {
		return fault.New(fault.Of(err).Code, "the volumes were rolled back before, but %w", err)
	}
	w.state.Failures = failures
	still := w.down()
	w.revived = slices.DeleteFunc(slices.Clone(down), func(unit string) bool { return slices.Contains(still, unit) })
	return nil
}

// down are the units that failed, in the order in which they are started.
func (w *walk) down() []string {
	var units []string
	for _, unit := range w.state.Services.Active {
		if slices.ContainsFunc(w.state.Failures, func(f service.Failure) bool { return f.Unit == unit }) {
			units = append(units, unit)
		}
	}
	return units
}

// wouldRevive is again's answer with Check.
func (w *walk) wouldRevive(e *journal.Entry) (ansible.Result, error) {
	w.revived, w.state.Failures = w.down(), nil
	return w.result(len(w.revived) > 0, e), w.failure()
}
