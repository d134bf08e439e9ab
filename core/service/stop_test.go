package service

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/servicetest"
)

func mustPlan(t *testing.T, s *Systemd, names ...string) Plan {
	t.Helper()
	p, err := s.Plan(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStopAndStartLeaveEverythingAsItWas(t *testing.T) {
	f := debianPostgreSQL()
	s := systemdOn(t, f)
	before := f.Up()
	p := mustPlan(t, s, "postgresql")
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"multi-user.target"}, f.Up()); diff != "" {
		t.Errorf("after the stop: %s", diff)
	}
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	failures, err := s.Start(t.Context(), p)
	if err != nil || len(failures) != 0 {
		t.Fatalf("%v, %v", failures, err)
	}
	if diff := cmp.Diff(before, f.Up()); diff != "" {
		t.Errorf("after the start: %s", diff)
	}
}

// The stops must run at the same time, because users notice the downtime: Stop queues every job before it waits for
// one.
func TestStopQueuesAllJobsBeforeItWaits(t *testing.T) {
	f := servicetest.New()
	for _, name := range []string{"a", "b", "c"} {
		f.Add(name+".service", "active").StopHangs = true
	}
	s := systemdOn(t, f)
	done := make(chan error, 1)
	go func() { done <- s.Stop(t.Context(), mustPlan(t, s, "a", "b", "c"), time.Minute) }()
	for _, name := range []string{"a.service", "b.service", "c.service"} { // Stop waits in another order
		waitUntil(t, func() bool { return f.Job(name) == "stop" })
	}
	select {
	case err := <-done:
		t.Fatalf("returned before anything had stopped: %v", err)
	default:
	}
	for _, name := range []string{"a.service", "b.service", "c.service"} {
		f.FinishStop(name)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitUntil(t *testing.T, met func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition was not met in time")
		}
	}
}

// fakeControlGroup makes a control group out of files. It returns the path of its file cgroup.events.
func fakeControlGroup(t *testing.T, s *Systemd, u *servicetest.Unit, populated string, pids string) string {
	t.Helper()
	dir := filepath.Join(s.cgroups, "system.slice/a.service")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(dir, "cgroup.events")
	writeFile(t, events, "populated "+populated+"\nfrozen 0\n")
	writeFile(t, filepath.Join(dir, "below/cgroup.procs"), pids)
	u.Properties = map[string]any{"ControlGroup": "/system.slice/a.service"}
	return events
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// systemd may consider a service down while a process that it started still writes.
func TestStopWaitsForTheLastProcess(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	u := f.Add("a.service", "active")
	events := fakeControlGroup(t, s, u, "1", "")
	done := make(chan error, 1)
	go func() { done <- s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute) }()
	waitUntil(t, func() bool { return len(f.Up()) == 0 })
	select {
	case err := <-done:
		t.Fatalf("returned although a process was left: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	writeFile(t, events, "populated 0\nfrozen 0\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStopNamesProcessesThatAreLeft(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	fakeControlGroup(t, s, f.Add("a.service", "active"), "1", "812\n")
	writeFile(t, filepath.Join(string(s.proc), "812/comm"), "stubborn\n")
	err := s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, 100*time.Millisecond)
	want := []Process{{PID: 812, Command: "stubborn", Unit: "a.service"}}
	if !errors.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "a.service has not stopped") {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(want, fault.Of(err).Facts["processes"]); diff != "" {
		t.Error(diff)
	}
}

func TestStopTimesOutIfAServiceNeverEnds(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "active").StopHangs = true
	f.Add("b.service", "active").StopHangs = true
	err := systemdOn(t, f).Stop(t.Context(), Plan{Stop: []string{"a.service", "b.service"}}, 100*time.Millisecond)
	if !errors.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "a.service") ||
		!strings.Contains(err.Error(), "b.service") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = systemdOn(t, f).Stop(ctx, Plan{Stop: []string{"a.service"}}, time.Minute)
	if !errors.Is(err, fault.Interrupted) {
		t.Errorf("after the end of the context: %v", err)
	}
}

func TestStopFailsIfSomethingStartsTheUnitAgain(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "active")
	startAgain := func(string, bool) error {
		if f.State("a.service") == "inactive" {
			return f.AdminStart("a.service")
		}
		return nil
	}
	err := On(f.Connect(startAgain), "", t.TempDir(), "").Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute)
	if !errors.Is(err, fault.ServiceFailed) || !strings.Contains(err.Error(), "started again") {
		t.Errorf("got %v", err)
	}
}

func TestStopEndsWithoutTheJobsResult(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "active").LosesResults = true
	if err := systemdOn(t, f).Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); err != nil {
		t.Error(err)
	}
}

// After a power cut the units of the journal's plan may not be loaded.
func TestStopIgnoresUnitsThatAreNotLoaded(t *testing.T) {
	f := servicetest.New()
	if err := systemdOn(t, f).Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); err != nil {
		t.Error(err)
	}
}

func TestStopNeedsUnifiedControlGroups(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	s.cgroups = ""
	if err := s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); !errors.Is(err, fault.Unsupported) {
		t.Errorf("got %v", err)
	}
}

func TestStartReportsEachFailureAndStartsTheOthers(t *testing.T) {
	f := servicetest.New()
	broken := f.Add("broken.service", "inactive")
	broken.StartsTo, broken.StartResult = "failed", "failed"
	broken.Properties = map[string]any{
		"Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(3), "StatusText": "no disk",
	}
	needs := f.Add("needs.service", "inactive")
	needs.StartsTo, needs.StartResult = "inactive", "dependency"
	shortLived := f.Add("crash.service", "inactive") // systemd reports it as started, and then it crashes
	shortLived.StartsTo = "failed"
	shortLived.Properties = map[string]any{"Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(11)}
	condition := f.Add("condition.service", "inactive")
	condition.StartsTo, condition.Flags["ConditionResult"] = "inactive", false
	f.Add("oneshot.service", "inactive").StartsTo = "inactive" // it has finished and is down again
	f.Add("good.service", "inactive")

	p := Plan{Active: []string{
		"broken.service", "needs.service", "crash.service", "condition.service", "oneshot.service", "gone.service",
		"good.service",
	}}
	failures, err := systemdOn(t, f).Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	want := []Failure{
		{"gone.service", "refused", "", "Unit gone.service not found."},
		{"broken.service", "exit-code", "sub", `its main process ended with status 3 (exit-code); it said: "no disk"`},
		{"needs.service", "dependency", "sub", "a unit that it requires did not start"},
		{"crash.service", "signal", "sub", "its main process was killed by SIGSEGV (signal)"},
		{"condition.service", "condition", "sub", "its conditions (Condition…=) are not met any more"},
	}
	if diff := cmp.Diff(want, failures); diff != "" {
		t.Error(diff)
	}
	if f.State("good.service") != "active" {
		t.Error("good.service was not started")
	}
	if !slices.Contains(f.Log(), "reset good.service") {
		t.Error("start limits were not reset")
	}
	f1 := failures[1].Fault()
	if f1.Code != fault.ServiceFailed || !strings.Contains(f1.Hint, "journalctl -b -u broken.service") ||
		len(f1.Facts) != 1 {
		t.Errorf("fault: %+v", f1)
	}
}

// A socket refuses to start while its service is still stopping.
func TestStartWaitsForUnitsThatAreStillStopping(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "active", "TriggeredBy", "a.socket").StopHangs = true
	f.Add("a.socket", "active")
	s := systemdOn(t, f)
	p := mustPlan(t, s, "a")
	if err := s.Stop(t.Context(), p, 10*time.Millisecond); !errors.Is(err, fault.Timeout) {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := s.Start(t.Context(), p); done <- err }()
	waitUntil(t, func() bool { return f.Watchers() == 1 })
	if slices.Contains(f.Log(), "start a.socket") {
		t.Error("the socket was started too early")
	}
	f.FinishStop("a.service")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.service", "a.socket"}, f.Up()); diff != "" {
		t.Error(diff)
	}
}

func TestWaitReturnsWhenTheUnitIsDown(t *testing.T) {
	f := servicetest.New()
	f.Add("rewind-1.service", "active").StopHangs = true
	s := systemdOn(t, f)
	if active, err := s.Active(t.Context(), "rewind-1.service"); !active || err != nil {
		t.Errorf("%v, %v", active, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Wait(t.Context(), "rewind-1.service") }()
	if _, err := f.Connect(nil).Stop(t.Context(), "rewind-1.service"); err != nil { // its ExecStopPost= runs
		t.Fatal(err)
	}
	if active, err := s.Active(t.Context(), "rewind-1.service"); !active || err != nil {
		t.Errorf("while it stops: %v, %v", active, err)
	}
	f.FinishStop("rewind-1.service")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Wait(t.Context(), "rewind-unknown.service"); err != nil {
		t.Error(err)
	}
	f.Add("rewind-2.service", "active")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, "rewind-2.service"); !errors.Is(err, fault.Timeout) {
		t.Errorf("got %v", err)
	}
}

// While the main process runs, Wait has no connection to systemd. Wait returns when the process ends, and the wait for
// the process when its context ends.
func TestWaitDisconnectsUntilTheMainProcessEnds(t *testing.T) {
	const name = "rewind-1.service"
	f := servicetest.New()
	s := systemdOn(t, f)
	main := exec.Command("sleep", "60")
	if err := main.Start(); err != nil {
		t.Fatal(err)
	}
	defer main.Process.Kill()
	dir := filepath.Join(string(s.proc), strconv.Itoa(main.Process.Pid))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte("0::/system.slice/"+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Add(name, "inactive").Properties = map[string]any{"MainPID": uint32(main.Process.Pid)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.waitProcess(ctx, name, main.Process.Pid)
	if ctx.Err() == nil {
		t.Error("did not wait for the process")
	}
	s.waitProcess(t.Context(), "other.service", main.Process.Pid) // returns at once: the process belongs to another unit
	done := make(chan error, 1)
	go func() { done <- s.Wait(t.Context(), name) }()
	if err := main.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !slices.Contains(f.Log(), "disconnect") {
		t.Errorf("%v, %v", err, f.Log())
	}
}

func TestByProcessNamesServicesOnce(t *testing.T) {
	f := servicetest.New()
	f.Add("db.service", "active")
	f.Add("run-u7.service", "active").Flags["Transient"] = true
	s := systemdOn(t, f)
	for pid, cgroup := range map[string]string{
		"1": "/system.slice/db.service", "2": "/system.slice/db.service", "3": "/user.slice/user-0.slice/session-1.scope",
		"4": "/user.slice/user-1000.slice/user@1000.service/app.slice/db.service", "5": "/system.slice/ssh.service", "6": "/",
		"7": "/system.slice/run-u7.service",
	} {
		writeFile(t, filepath.Join(string(s.proc), pid, "cgroup"), "0::"+cgroup+"\n")
	}
	units, transient, err := s.ByProcess(t.Context(), []int{1, 2, 3, 4, 5, 6, 7, 8})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"db.service"}, units); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"run-u7.service"}, transient); diff != "" {
		t.Error(diff)
	}
}
