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

// A unit that did not start counts as failed until somebody has started it.
func TestAUnitThatRunsByNowIsForgiven(t *testing.T) {
	w := &walk{state: &State{Failures: []service.Failure{{Unit: "a.service", Message: "no"}, {Unit: "b.service", Message: "no"}}}}
	running := map[string]bool{}
	active := func(_ context.Context, unit string) (bool, error) { return running[unit], nil }
	for _, c := range []struct {
		starts string
		named  []string
	}{{"", []string{"a.service", "b.service"}}, {"a.service", []string{"b.service"}}, {"b.service", nil}} {
		running[c.starts] = true
		if err := w.forgive(t.Context(), active); err != nil {
			t.Fatal(err)
		}
		var named []string
		for _, f := range w.state.Failures {
			named = append(named, f.Unit)
		}
		err := w.failure()
		if !slices.Equal(named, c.named) || (err == nil) != (len(c.named) == 0) || err != nil && !errors.Is(err, fault.ServiceFailed) {
			t.Errorf("after a start of %q: %v, %v", c.starts, named, err)
		}
	}
	broken := errors.New("systemd is out of reach")
	w.state.Failures = []service.Failure{{Unit: "a.service"}}
	if err := w.forgive(t.Context(), func(context.Context, string) (bool, error) { return false, broken }); !errors.Is(err, broken) || len(w.state.Failures) != 1 {
		t.Errorf("%v, %v", err, w.state.Failures)
	}
}

// Units that did not start are started by the next run, in their order; one that fails again fails it.
func TestUnitsThatDidNotStartAreStartedByTheNextRun(t *testing.T) {
	no := func(unit string) service.Failure { return service.Failure{Unit: unit, Message: "no"} }
	w := walkOf(t, server(), "vg00/dat_s")
	w.commands = command.NewRecorder(command.Local{})
	w.state.Services = service.Plan{Active: []string{"a.service", "b.service", "c.service"}, Pulling: []string{"a.service"}}
	w.state.Failures = []service.Failure{no("c.service"), no("b.service")}
	var started []string
	err := w.revive(t.Context(), func(_ context.Context, p service.Plan) ([]service.Failure, error) {
		started = p.Active
		return []service.Failure{no("c.service")}, nil
	})
	if err != nil || !slices.Equal(started, []string{"b.service", "c.service"}) || !slices.Equal(w.revived, []string{"b.service"}) {
		t.Errorf("started %v, of which %v came up: %v", started, w.revived, err)
	}
	if err := w.failure(); !errors.Is(err, fault.ServiceFailed) {
		t.Errorf("c.service failed again: %v", err)
	}

	w.Check, w.revived = true, nil
	result, err := w.wouldRevive(&journal.Entry{Outcome: journal.Done})
	if err != nil || !result.Changed || !slices.Equal(w.revived, []string{"c.service"}) {
		t.Errorf("with --check: %v, %+v", err, result)
	}
	if err := w.revive(t.Context(), nil); err != nil {
		t.Errorf("with nothing down: %v", err)
	}
}

// Services that were left stopped for a look are started by the same line without start_services=false.
func TestServicesLeftStoppedAreStartedWhenThatIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		started, asked, lost, want bool
	}{
		"left, and asked for": {false, true, false, true},
		"left, and again not": {false, false, false, false},
		"started then":        {true, true, false, false},
		"left because of mix": {false, true, true, false},
	} {
		w := walkOf(t, server(), "vg00/dat_s")
		w.StartServices, w.state.Start, w.state.Members[0].Lost = c.asked, c.started, c.lost
		w.state.Services = service.Plan{Active: []string{"a.service"}}
		w.wanted()
		if down := w.down(); (len(down) == 1) != c.want {
			t.Errorf("%s: %v are started", name, down)
		}
	}
}
