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
	s := f.systemd(t)
	before := f.up()
	p := mustPlan(t, s, "postgresql")
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"multi-user.target"}, f.up()); diff != "" {
		t.Errorf("after the stop: %s", diff)
	}
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	failures, err := s.Start(t.Context(), p)
	if err != nil || len(failures) != 0 {
		t.Fatalf("%v, %v", failures, err)
	}
	if diff := cmp.Diff(before, f.up()); diff != "" {
		t.Errorf("after the start: %s", diff)
	}
}

// The stops must run at the same time, because users notice the downtime: Stop queues every job before it waits for
// one.
func TestStopQueuesAllJobsBeforeItWaits(t *testing.T) {
	f := newFakeBus()
	for _, name := range []string{"a", "b", "c"} {
		f.add(name+".service", "active").stopHangs = true
	}
	s := f.systemd(t)
	done := make(chan error, 1)
	go func() { done <- s.Stop(t.Context(), mustPlan(t, s, "a", "b", "c"), time.Minute) }()
	for _, name := range []string{"a.service", "b.service", "c.service"} { // Stop waits in another order
		waitUntil(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.units[name].job == "stop" })
	}
	select {
	case err := <-done:
		t.Fatalf("returned before anything had stopped: %v", err)
	default:
	}
	for _, name := range []string{"a.service", "b.service", "c.service"} {
		f.finishStop(name)
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
func fakeControlGroup(t *testing.T, s *Systemd, u *fakeUnit, populated string, pids string) string {
	t.Helper()
	dir := filepath.Join(s.cgroups, "system.slice/a.service")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(dir, "cgroup.events")
	writeFile(t, events, "populated "+populated+"\nfrozen 0\n")
	writeFile(t, filepath.Join(dir, "below/cgroup.procs"), pids)
	u.typeProperties = map[string]any{"ControlGroup": "/system.slice/a.service"}
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
	f := newFakeBus()
	s := f.systemd(t)
	u := f.add("a.service", "active")
	events := fakeControlGroup(t, s, u, "1", "")
	done := make(chan error, 1)
	go func() { done <- s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute) }()
	waitUntil(t, func() bool { return len(f.up()) == 0 })
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
	f := newFakeBus()
	s := f.systemd(t)
	fakeControlGroup(t, s, f.add("a.service", "active"), "1", "812\n")
	writeFile(t, filepath.Join(string(s.proc), "812/comm"), "stubborn\n")
	err := s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, 30*time.Millisecond)
	want := []Process{{PID: 812, Command: "stubborn", Unit: "a.service"}}
	if !errors.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "a.service has not stopped") {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(want, fault.Of(err).Facts["processes"]); diff != "" {
		t.Error(diff)
	}
}

func TestStopTimesOutIfAServiceNeverEnds(t *testing.T) {
	f := newFakeBus()
	f.add("a.service", "active").stopHangs = true
	f.add("b.service", "active").stopHangs = true
	err := f.systemd(t).Stop(t.Context(), Plan{Stop: []string{"a.service", "b.service"}}, 30*time.Millisecond)
	if !errors.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "a.service") ||
		!strings.Contains(err.Error(), "b.service") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = f.systemd(t).Stop(ctx, Plan{Stop: []string{"a.service"}}, time.Minute)
	if !errors.Is(err, fault.Interrupted) {
		t.Errorf("after the end of the context: %v", err)
	}
}

func TestStopFailsIfSomethingStartsTheUnitAgain(t *testing.T) {
	f := newFakeBus()
	u := f.add("a.service", "active")
	u.onStop = func() { u.active = "active" }
	err := f.systemd(t).Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute)
	if !errors.Is(err, fault.ServiceFailed) || !strings.Contains(err.Error(), "started again") {
		t.Errorf("got %v", err)
	}
}

func TestStopEndsWithoutTheJobsResult(t *testing.T) {
	f := newFakeBus()
	f.add("a.service", "active").losesResults = true
	if err := f.systemd(t).Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); err != nil {
		t.Error(err)
	}
}

// After a power cut the units of the journal's plan may not be loaded.
func TestStopIgnoresUnitsThatAreNotLoaded(t *testing.T) {
	f := newFakeBus()
	if err := f.systemd(t).Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); err != nil {
		t.Error(err)
	}
}

func TestStopNeedsUnifiedControlGroups(t *testing.T) {
	f := newFakeBus()
	s := f.systemd(t)
	s.cgroups = ""
	if err := s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); !errors.Is(err, fault.Unsupported) {
		t.Errorf("got %v", err)
	}
}

func TestStartReportsEachFailureAndStartsTheOthers(t *testing.T) {
	f := newFakeBus()
	broken := f.add("broken.service", "inactive")
	broken.startsTo, broken.startResult = "failed", "failed"
	broken.typeProperties = map[string]any{
		"Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(3), "StatusText": "no disk",
	}
	needs := f.add("needs.service", "inactive")
	needs.startsTo, needs.startResult = "inactive", "dependency"
	shortLived := f.add("crash.service", "inactive") // systemd reports it as started, and then it crashes
	shortLived.startsTo = "failed"
	shortLived.typeProperties = map[string]any{"Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(11)}
	f.add("condition.service", "inactive").startsTo = "inactive"
	f.units["condition.service"].flags["ConditionResult"] = false
	f.add("oneshot.service", "inactive").startsTo = "inactive" // it has finished and is down again
	f.add("good.service", "inactive")

	p := Plan{Active: []string{
		"broken.service", "needs.service", "crash.service", "condition.service", "oneshot.service", "gone.service",
		"good.service",
	}}
	failures, err := f.systemd(t).Start(t.Context(), p)
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
	if f.units["good.service"].active != "active" {
		t.Error("good.service was not started")
	}
	if !slices.Contains(f.log, "reset good.service") {
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
	f := newFakeBus()
	f.add("a.service", "active", "TriggeredBy", "a.socket").stopHangs = true
	f.add("a.socket", "active")
	s := f.systemd(t)
	p := mustPlan(t, s, "a")
	if err := s.Stop(t.Context(), p, 10*time.Millisecond); !errors.Is(err, fault.Timeout) {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := s.Start(t.Context(), p); done <- err }()
	waitUntil(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.watchers) == 1 })
	f.mu.Lock()
	if slices.Contains(f.log, "start a.socket") {
		t.Error("the socket was started too early")
	}
	f.mu.Unlock()
	f.finishStop("a.service")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.service", "a.socket"}, f.up()); diff != "" {
		t.Error(diff)
	}
}

func TestWaitReturnsWhenTheUnitIsDown(t *testing.T) {
	f := newFakeBus()
	f.add("rewind-1.service", "active").stopHangs = true
	s := f.systemd(t)
	if active, err := s.Active(t.Context(), "rewind-1.service"); !active || err != nil {
		t.Errorf("%v, %v", active, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Wait(t.Context(), "rewind-1.service") }()
	if _, err := f.Stop(t.Context(), "rewind-1.service"); err != nil { // its ExecStopPost= runs
		t.Fatal(err)
	}
	if active, err := s.Active(t.Context(), "rewind-1.service"); !active || err != nil {
		t.Errorf("while it stops: %v, %v", active, err)
	}
	f.finishStop("rewind-1.service")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Wait(t.Context(), "rewind-unknown.service"); err != nil {
		t.Error(err)
	}
	f.add("rewind-2.service", "active")
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
	f := newFakeBus()
	s := f.systemd(t)
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
	f.add(name, "inactive").typeProperties = map[string]any{"MainPID": uint32(main.Process.Pid)}
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
	if err := <-done; err != nil || !slices.Contains(f.log, "rest") {
		t.Errorf("%v, %v", err, f.log)
	}
}

func TestByProcessNamesServicesOnce(t *testing.T) {
	f := newFakeBus()
	f.add("db.service", "active")
	f.add("run-u7.service", "active").flags["Transient"] = true
	s := f.systemd(t)
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
