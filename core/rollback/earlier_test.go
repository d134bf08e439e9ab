package rollback

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// A unit that did not start is a failure of the rollback until somebody has started it.
func TestDropRunning(t *testing.T) {
	rb := newParts(&base{state: &State{Failures: []service.Failure{
		{Unit: "a.service", Message: "no"}, {Unit: "b.service", Message: "no"},
	}}})
	running := map[string]bool{}
	active := func(_ context.Context, unit string) (bool, error) { return running[unit], nil }
	for _, c := range []struct {
		starts string
		named  []string
	}{{"", []string{"a.service", "b.service"}}, {"a.service", []string{"b.service"}}, {"b.service", nil}} {
		running[c.starts] = true
		if err := rb.state.dropRunning(t.Context(), active); err != nil {
			t.Fatal(err)
		}
		var named []string
		for _, f := range rb.state.Failures {
			named = append(named, f.Unit)
		}
		err := rb.state.failure()
		if !slices.Equal(named, c.named) || (err == nil) != (len(c.named) == 0) ||
			err != nil && !errors.Is(err, fault.ServiceFailed) {
			t.Errorf("after a start of %q: %v, %v", c.starts, named, err)
		}
	}
	broken := errors.New("systemd is out of reach")
	rb.state.Failures = []service.Failure{{Unit: "a.service"}}
	err := rb.state.dropRunning(t.Context(), func(context.Context, string) (bool, error) { return false, broken })
	if !errors.Is(err, broken) || len(rb.state.Failures) != 1 {
		t.Errorf("%v, %v", err, rb.state.Failures)
	}
}

// The next run starts units that did not start, in their order. A unit that fails again fails that run too.
func TestStartFailed(t *testing.T) {
	failure := func(unit string) service.Failure { return service.Failure{Unit: unit, Message: "no"} }
	rb := newAtMerge(t, server(), "vg00/dat_s")
	rb.commands = command.NewRecorder(command.Local{})
	rb.state.Services = service.Plan{
		Active: []string{"a.service", "b.service", "c.service"}, Pulling: []string{"a.service"},
	}
	rb.state.Failures = []service.Failure{failure("c.service"), failure("b.service")}
	var started []string
	err := rb.startFailed(t.Context(), func(_ context.Context, p service.Plan) ([]service.Failure, error) {
		started = p.Active
		return []service.Failure{failure("c.service")}, nil
	})
	if err != nil || !slices.Equal(started, []string{"b.service", "c.service"}) ||
		!slices.Equal(rb.answers.unitsStartedNow, []string{"b.service"}) {
		t.Errorf("started %v, of which %v came up: %v", started, rb.answers.unitsStartedNow, err)
	}
	if err := rb.state.failure(); !errors.Is(err, fault.ServiceFailed) {
		t.Errorf("c.service failed again: %v", err)
	}

	rb.Check, rb.answers.unitsStartedNow = true, nil
	result, err := rb.answerEarlierCheck(&journal.Entry{Outcome: journal.Done})
	if err != nil || !result.Changed || !slices.Equal(rb.answers.unitsStartedNow, []string{"c.service"}) {
		t.Errorf("with --check: %v, %+v", err, result)
	}
	if err := rb.startFailed(t.Context(), nil); err != nil {
		t.Errorf("with nothing down: %v", err)
	}
}

// Services that were left stopped are started by the same task without start_services=false.
func TestAddLeftStopped(t *testing.T) {
	for name, c := range map[string]struct {
		started, asked, lost, want bool
	}{
		"left, and asked for":  {false, true, false, true},
		"left, and again not":  {false, false, false, false},
		"started then":         {true, true, false, false},
		"left, member is lost": {false, true, true, false},
	} {
		rb := newAtMerge(t, server(), "vg00/dat_s")
		rb.state.Start, rb.state.Members[0].Lost = c.started, c.lost
		rb.state.Services = service.Plan{Active: []string{"a.service"}}
		rb.state.addLeftStopped(c.asked)
		if down := rb.state.failedUnits(); (len(down) == 1) != c.want {
			t.Errorf("%s: %v are started", name, down)
		}
	}
}
