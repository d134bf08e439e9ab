package servicetest_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
	"go.pcc.com/rewind/core/service/servicetest"
)

// wantStates checks the states of units, written as "a.service active b.service failed".
func wantStates(t *testing.T, f *servicetest.Fake, want string) {
	t.Helper()
	words := strings.Fields(want)
	for i := 0; i < len(words); i += 2 {
		if got := f.State(words[i]); got != words[i+1] {
			t.Errorf("%s is %s, want %s", words[i], got, words[i+1])
		}
	}
}

func wantList(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// result returns the result that a job has by now.
func result(job <-chan string, err error) string {
	if err != nil {
		return err.Error()
	}
	select {
	case word := <-job:
		return word
	default:
		return "none yet"
	}
}

// recorder adds units whose starts and stops are noted.
type recorder struct {
	f    *servicetest.Fake
	mu   sync.Mutex
	done []string
}

func (r *recorder) add(name, active string, deps ...string) *servicetest.Unit {
	u := r.f.Add(name, active, deps...)
	u.OnStart = func() error { r.note("start " + name); return nil }
	u.OnStop = func() { r.note("stop " + name) }
	return u
}

func (r *recorder) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, what)
}

// take returns what was noted since the last take.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := r.done
	r.done = nil
	return done
}

func TestBeforeIsToldOfEveryCall(t *testing.T) {
	f := servicetest.New()
	f.Add("web.service", "inactive")
	var calls []string
	b := f.Connect(func(call string, changes bool) error {
		if f.State("web.service"); changes { // a lock that is held would block here
			call = "! " + call
		}
		calls = append(calls, call)
		return nil
	})
	ctx := t.Context()
	_, _ = b.UnitProperties(ctx, "web.service")
	_, _ = b.Property(ctx, "web.service", "Service", "Result")
	_, _ = b.JobType(ctx, "web.service")
	_, _ = b.LoadedUnits(ctx, "*.socket")
	_, _ = b.UnitFiles(ctx, "*.mount", "*.swap")
	_, _, _ = b.Watch(ctx, "web.service")
	_, _ = b.Start(ctx, "web.service", bus.UnitOnly)
	_, _ = b.Start(ctx, "web.service", bus.WithDependencies)
	_, _ = b.Stop(ctx, "web.service")
	_, _ = b.StartTransient(ctx, "rewind-hold-1.service", nil)
	_ = b.ResetFailed(ctx, "web.service")
	_ = b.Reload(ctx)
	changing := []string{
		"! start web.service", "! start web.service with dependencies", "! stop web.service",
		"! transient rewind-hold-1.service", "! reset web.service", "! reload",
	}
	wantList(t, calls, append([]string{
		"ask web.service", "ask web.service", "ask web.service", "ask *.socket", "ask *.mount *.swap", "ask web.service",
	}, changing...)...)
	for i := range changing {
		changing[i] = changing[i][2:]
	}
	wantList(t, f.Log(), changing...)
}

func TestACallThatBeforeRefusesHasNoEffect(t *testing.T) {
	f := servicetest.New()
	f.Add("web.service", "active")
	refused := errors.New("refused")
	b := f.Connect(func(string, bool) error { return refused })
	if _, err := b.Stop(t.Context(), "web.service"); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = f.Connect(func(string, bool) error { runtime.Goexit(); return nil }).Stop(context.Background(), "web.service")
		t.Error("the process goes on")
	}()
	<-ended
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Connect(nil).Stop(over, "web.service"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantStates(t, f, "web.service active")
	wantList(t, f.Log())
}

func TestAFailedStartShowsItsStatusUntilReset(t *testing.T) {
	f := servicetest.New()
	f.Add("web.service", "inactive").OnStart = func() error {
		wantStates(t, f, "web.service activating") // a lock that is held would block here
		return errors.New("no disk")
	}
	s := service.On(f.Connect(nil), "", "", "")
	failures, err := s.Start(t.Context(), service.Plan{Active: []string{"web.service"}})
	if err != nil || len(failures) != 1 || failures[0].Result != "exit-code" ||
		!strings.Contains(failures[0].Message, "status 1") {
		t.Errorf("%+v, %v", failures, err)
	}
	if got := f.Result("web.service"); got != "failed" {
		t.Error(got)
	}
	wantStates(t, f, "web.service failed")
	if err := f.Connect(nil).ResetFailed(t.Context(), "web.service"); err != nil {
		t.Error(err)
	}
	wantStates(t, f, "web.service inactive")
	if err := f.Connect(nil).ResetFailed(t.Context(), "none.service"); !bus.IsError(err, bus.NoSuchUnit) {
		t.Errorf("got %v", err)
	}
}

func TestAStopIsOfTheUnitAlone(t *testing.T) {
	r := recorder{f: servicetest.New()}
	r.add("db.service", "active", "RequiredBy", "app.service", "BoundBy", "bound.service")
	r.add("app.service", "active", "After", "db.service")
	r.add("bound.service", "active", "After", "app.service")
	r.add("next.service", "active", "After", "db.service")
	b := r.f.Connect(nil)
	if got := result(b.Stop(t.Context(), "db.service")); got != "done" {
		t.Error(got)
	}
	wantList(t, r.take(), "stop db.service")
	if got := result(b.Stop(t.Context(), "none.service")); got != "Unit none.service not found." {
		t.Error(got)
	}
	_ = r.f.AdminStart("db.service")
	r.take()
	r.f.AdminStop("db.service")
	wantList(t, r.take(), "stop bound.service", "stop app.service", "stop db.service")
	r.f.AdminStop("none.service")
}

func TestAStartPullsInWhatItNeedsIfTold(t *testing.T) {
	r := recorder{f: servicetest.New()}
	r.add("web.service", "inactive", "Requires", "app.service", "After", "app.service", "Wants", "none.service",
		"Wants", "log.service")
	r.add("app.service", "inactive", "BindsTo", "db.service", "After", "db.service")
	r.add("db.service", "inactive")
	r.add("log.service", "inactive", "After", "web.service")
	b := r.f.Connect(nil)
	if got := result(b.Start(t.Context(), "web.service", bus.UnitOnly)); got != "done" {
		t.Error(got)
	}
	wantList(t, r.take(), "start web.service")
	if got := result(b.Start(t.Context(), "web.service", bus.WithDependencies)); got != "done" {
		t.Error(got)
	}
	wantList(t, r.take(), "start db.service", "start app.service", "start log.service")
	r.f.Add("lone.service", "inactive", "Requires", "none.service")
	if err := r.f.AdminStart("lone.service"); !bus.IsError(err, bus.NoSuchUnit) {
		t.Errorf("got %v", err)
	}
	if got := result(b.Start(t.Context(), "lone.service", bus.UnitOnly)); got != "done" {
		t.Error(got)
	}
}

func TestAStartFailsWithWhatItNeeds(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "inactive", "Requires", "b.service", "After", "b.service")
	f.Add("b.service", "inactive", "Requires", "c.service", "After", "c.service")
	f.Add("c.service", "inactive").OnStart = func() error { return errors.New("broken") }
	if got := result(f.Connect(nil).Start(t.Context(), "a.service", bus.WithDependencies)); got != "dependency" {
		t.Error(got)
	}
	wantStates(t, f, "a.service inactive b.service inactive c.service failed")
}

func TestAHoldKeepsStartsWaiting(t *testing.T) {
	r := recorder{f: servicetest.New()}
	r.add("app.service", "inactive")
	r.add("dat.mount", "inactive")
	r.add("other.service", "inactive")
	b := r.f.Connect(nil)
	s := service.On(b, "", "", "")
	const hold = "rewind-hold-1.service"
	if err := s.Hold(t.Context(), hold, "Rewind", []string{"app.service", "dat.mount"}); err != nil {
		t.Fatal(err)
	}
	wantStates(t, r.f, hold+" activating")
	job, err := b.Start(t.Context(), "app.service", bus.UnitOnly)
	if got := result(job, err); got != "none yet" {
		t.Error(got)
	}
	for _, name := range []string{"dat.mount", "other.service"} {
		if err := r.f.AdminStart(name); err != nil {
			t.Error(err)
		}
	}
	wantList(t, r.take(), "start other.service")
	wantStates(t, r.f, "app.service inactive dat.mount inactive")
	if r.f.Job("app.service") != "start" || r.f.Job(hold) != "start" {
		t.Error("their starts are not queued")
	}
	if _, err := b.Stop(t.Context(), "dat.mount"); err != nil || r.f.Result("dat.mount") != "done" {
		t.Errorf("a stop of what is held must not wait: %v", err)
	}
	if err := s.Release(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	wantList(t, r.take(), "start app.service")
	if got := result(job, nil); got != "done" {
		t.Error(got)
	}
	if names, _ := b.LoadedUnits(t.Context(), "rewind-*"); len(names) > 0 {
		t.Errorf("the hold is left: %v", names)
	}
}

func TestAStopTakesThePlaceOfAStart(t *testing.T) {
	f := servicetest.New()
	f.Add("slow.service", "inactive").StartHangs = true
	b := f.Connect(nil)
	start, err := b.Start(t.Context(), "slow.service", bus.UnitOnly)
	if got := result(b.Stop(t.Context(), "slow.service")); got != "done" {
		t.Error(got)
	}
	if got := result(start, err); got != "canceled" {
		t.Error(got)
	}
	wantStates(t, f, "slow.service inactive")
	f.Add("stuck.service", "active").StopHangs = true
	stop, err := b.Stop(t.Context(), "stuck.service")
	again, _ := b.Start(t.Context(), "stuck.service", bus.UnitOnly)
	if got := result(stop, err); got != "canceled" {
		t.Error(got)
	}
	wantStates(t, f, "stuck.service deactivating")
	f.FinishStop("stuck.service")
	if got := result(again, nil); got != "done" {
		t.Error(got)
	}
	wantStates(t, f, "stuck.service active")
}

// A start that takes long runs while others use the fake, with the clock of the bubble.
func TestTheFakeWorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := servicetest.New()
		f.Add("slow.service", "inactive").OnStart = func() error { time.Sleep(time.Hour); return nil }
		f.Add("next.service", "inactive", "After", "slow.service")
		begun := time.Now()
		var group sync.WaitGroup
		for _, name := range []string{"slow.service", "next.service"} {
			group.Go(func() {
				s := service.On(f.Connect(nil), "", "", "")
				if failures, err := s.Start(t.Context(), service.Plan{Active: []string{name}}); err != nil || len(failures) > 0 {
					t.Errorf("%v, %v", failures, err)
				}
			})
			synctest.Wait()
		}
		wantStates(t, f, "slow.service activating next.service inactive")
		group.Wait()
		if took := time.Since(begun); took < time.Hour || took > time.Hour+time.Minute {
			t.Error(took)
		}
		wantStates(t, f, "slow.service active next.service active")
	})
}

func TestPowerOffEndsEverythingAtOnce(t *testing.T) {
	r := recorder{f: servicetest.New()}
	r.add("app.service", "active")
	r.add("dat.mount", "failed")
	old := r.f.Connect(nil)
	s := service.On(old, "", "", "")
	if err := s.Hold(t.Context(), "rewind-hold-1.service", "", []string{"app.service"}); err != nil {
		t.Fatal(err)
	}
	r.f.PowerOff()
	wantList(t, r.take())
	wantList(t, r.f.Up())
	if _, err := old.Stop(t.Context(), "app.service"); !errors.Is(err, dbus.ErrLost) {
		t.Errorf("got %v", err)
	}
	names, err := r.f.Connect(nil).LoadedUnits(t.Context(), "*")
	if wantList(t, names, "app.service", "dat.mount"); err != nil {
		t.Error(err)
	}
	wantStates(t, r.f, "dat.mount inactive")
	r.add("late.service", "inactive").OnStart = func() error { r.f.PowerOff(); return nil }
	_ = r.f.AdminStart("late.service")
	wantStates(t, r.f, "late.service inactive")
}
