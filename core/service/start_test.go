package service

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/service/servicetest"
)

// A unit that still starts at the deadline is the only failure: the other units have started.
func TestStartAtDeadlineReportsOnlyUnitsStillStarting(t *testing.T) {
	f := servicetest.New()
	f.Add("hangs.service", "inactive").StartHangs = true
	f.Add("good.service", "inactive")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	failures, err := systemdOn(t, f).Start(ctx, Plan{Active: []string{"hangs.service", "good.service"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Failure{{"hangs.service", "timeout", "start", "its start goes on"}}, failures); diff != "" {
		t.Error(diff)
	}
	if f.State("good.service") != "active" {
		t.Error("good.service was not started")
	}
}

// A cancelled context is an error and not a failure of the unit.
func TestStartFailsIfItsContextIsCancelled(t *testing.T) {
	f := servicetest.New()
	f.Add("hangs.service", "inactive").StartHangs = true
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := systemdOn(t, f).Start(ctx, Plan{Active: []string{"hangs.service"}}); err == nil {
		t.Error("no error")
	}
}

// A oneshot service that was working is started again, and Start does not wait until it has finished.
func TestStartDoesNotWaitForUnitsThatWereStillStarting(t *testing.T) {
	f := servicetest.New()
	f.Add("nightly.service", "activating")
	f.Add("restarts.service", "activating").Sub = "auto-restart"
	s := systemdOn(t, f)
	p := mustPlan(t, s, "nightly", "restarts")
	if diff := cmp.Diff([]string{"nightly.service"}, p.Begun); diff != "" {
		t.Error(diff)
	}
	if err := s.Stop(t.Context(), p, time.Second); err != nil {
		t.Fatal(err)
	}
	f.Change("nightly.service", func(u *servicetest.Unit) { u.StartHangs = true })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	failures, err := s.Start(ctx, p)
	if err != nil || len(failures) > 0 || f.State("nightly.service") != "activating" {
		t.Errorf("%v, %v, %s", failures, err, f.State("nightly.service"))
	}
}
