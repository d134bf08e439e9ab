//go:build lab

// These tests ask a real systemd, as root, on a machine that may be harmed and
// that has Debian's PostgreSQL running:
//
//	CGO_ENABLED=0 go test -c -tags lab -o service.test ./core/service
//	REWIND_LAB_MOUNT=/dat ./service.test -test.v -test.run Lab    # on that machine
//
// /dat stands for a mount point that has a file system and a mount unit of its own.
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
	"go.pcc.com/rewind/core/filesystem"
)

func runCommand(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func connectLab(t *testing.T) *Systemd {
	t.Helper()
	if os.Getenv("REWIND_LAB_MOUNT") == "" {
		t.Fatal("REWIND_LAB_MOUNT is not set: is this a machine that may be harmed?")
	}
	s, err := Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// installUnits adds units with these texts until the end of the test.
func installUnits(t *testing.T, units map[string]string) {
	t.Helper()
	dir := "/run/systemd/system"
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	runCommand(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		var names []string
		for name := range units {
			names = append(names, name)
			_ = os.Remove(filepath.Join(dir, name))
		}
		runCommand(t, "systemctl", "daemon-reload") // Upholds= and Restart= end here
		for _, verb := range [][]string{{"kill", "-s", "KILL"}, {"stop"}, {"reset-failed"}} {
			_ = exec.Command("systemctl", append(verb, names...)...).Run()
		}
	})
}

const sleepService = "[Service]\nExecStart=/bin/sleep 10000\n"

func activeOf(t *testing.T, units ...string) []string {
	t.Helper()
	var up []string
	for _, name := range units {
		if out, _ := exec.Command("systemctl", "is-active", name).Output(); strings.TrimSpace(string(out)) == "active" {
			up = append(up, name)
		}
	}
	return up
}

func planAndStop(t *testing.T, s *Systemd, names ...string) Plan {
	t.Helper()
	p := mustPlan(t, s, names...)
	begun := time.Now()
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v stopped in %v", p, time.Since(begun))
	return p
}

func startAgain(t *testing.T, s *Systemd, p Plan) {
	t.Helper()
	failures, err := s.Start(t.Context(), p)
	if err != nil || len(failures) > 0 {
		t.Fatalf("%v, %v", failures, err)
	}
}

// postgresql.service does nothing itself: it may be down before the cluster has stopped.
func TestLabPostgreSQL(t *testing.T) {
	s := connectLab(t)
	runCommand(t, "systemctl", "start", "postgresql")
	instances := runCommand(t, "systemctl", "list-units", "--plain", "--no-legend", "--state=active", "postgresql@*")
	instance := strings.Fields(instances)[0]
	both := []string{"postgresql.service", instance}
	p := planAndStop(t, s, "postgresql")
	if out, err := exec.Command("pgrep", "-x", "postgres").Output(); err == nil {
		t.Errorf("postgres processes are left: %s", out)
	}
	if up := activeOf(t, both...); len(up) != 0 {
		t.Errorf("still active: %v", up)
	}
	startAgain(t, s, p)
	if diff := cmp.Diff(both, activeOf(t, both...)); diff != "" {
		t.Error(diff)
	}
	// A cluster that its administrator has stopped stays stopped.
	runCommand(t, "systemctl", "stop", instance)
	startAgain(t, s, planAndStop(t, s, "postgresql"))
	if diff := cmp.Diff(both[:1], activeOf(t, both...)); diff != "" {
		t.Error(diff)
	}
	runCommand(t, "systemctl", "start", instance)
}

func TestLabDependentsAndTriggers(t *testing.T) {
	s := connectLab(t)
	dir := t.TempDir()
	installUnits(t, map[string]string{
		"lab-db.service":    "[Unit]\nUpholds=lab-kept.service\n" + sleepService,
		"lab-app.service":   "[Unit]\nRequires=lab-db.service\nAfter=lab-db.service\n" + sleepService,
		"lab-part.service":  "[Unit]\nPartOf=lab-app.service\n" + sleepService,
		"lab-idle.service":  "[Unit]\nRequires=lab-db.service\n" + sleepService,
		"lab-db.timer":      "[Timer]\nOnUnitInactiveSec=1s\nAccuracySec=1ms\n",
		"lab-app.socket":    "[Socket]\nListenStream=" + dir + "/socket\n",
		"lab-db.path":       "[Path]\nPathExists=/etc/passwd\n",
		"lab-wants.target":  "[Unit]\nRequires=lab-db.service\n",
		"lab-spare.service": "[Unit]\nStopWhenUnneeded=yes\n" + sleepService,
		"lab-user.service": "[Unit]\nPartOf=lab-db.service\nRequires=lab-spare.service\n" +
			"After=lab-spare.service\n" + sleepService,
		"lab-kept.service": sleepService,
	})
	runCommand(t, "systemctl", "start", "lab-wants.target", "lab-app.socket", "lab-app", "lab-part",
		"lab-db.timer", "lab-db.path", "lab-user")
	all := []string{
		"lab-app.service", "lab-app.socket", "lab-db.path", "lab-db.service", "lab-db.timer", "lab-idle.service",
		"lab-part.service", "lab-spare.service", "lab-user.service", "lab-wants.target", "lab-kept.service",
	}
	before := activeOf(t, all...)
	p := planAndStop(t, s, "lab-db", "lab-kept")
	if diff := cmp.Diff([]string{"lab-wants.target"}, activeOf(t, all...)); diff != "" {
		t.Errorf("after the stop: %s", diff)
	}
	time.Sleep(1500 * time.Millisecond) // longer than the timer's second
	if diff := cmp.Diff([]string{"lab-wants.target"}, activeOf(t, all...)); diff != "" {
		t.Errorf("something was started: %s", diff)
	}
	startAgain(t, s, p)
	if diff := cmp.Diff(before, activeOf(t, all...)); diff != "" {
		t.Errorf("after the start: %s", diff)
	}
}

func TestLabServiceThatIgnoresSIGTERM(t *testing.T) {
	s := connectLab(t)
	installUnits(t, map[string]string{"lab-deaf.service": "[Service]\nTimeoutStopSec=4\nType=notify\nNotifyAccess=all\n" +
		"ExecStart=/bin/bash -c 'trap \"\" TERM; systemd-notify --ready; while :; do sleep 1; done'\n"})
	runCommand(t, "systemctl", "start", "lab-deaf")
	p := mustPlan(t, s, "lab-deaf")
	err := s.Stop(t.Context(), p, time.Second)
	if !errors.Is(err, fault.Timeout) {
		t.Fatalf("before systemd kills it: %v, want timeout", err)
	}
	if left, _ := fault.Of(err).Facts["processes"].([]Process); len(left) == 0 || left[0].Command == "" {
		t.Errorf("processes left: %+v", left)
	}
	startAgain(t, s, p) // the stop is still under way
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Fatal(err)
	}
	startAgain(t, s, p)
	if up := activeOf(t, "lab-deaf.service"); len(up) != 1 {
		t.Error("it is not active again")
	}
}

// With KillMode=process children of the main process stay. They may still write.
func TestLabStopWaitsForProcessesThatOutliveTheService(t *testing.T) {
	s := connectLab(t)
	installUnits(t, map[string]string{"lab-leaves.service": "[Service]\nKillMode=process\n" +
		"ExecStart=/bin/bash -c 'sleep 3 & exec sleep 1000'\n"})
	runCommand(t, "systemctl", "start", "lab-leaves")
	group := "/sys/fs/cgroup" + runCommand(t, "systemctl", "show", "-P", "ControlGroup", "lab-leaves")
	planAndStop(t, s, "lab-leaves")
	if left := processesIn(group); len(left) != 0 {
		t.Errorf("returned with %v left", left)
	}
}

func TestLabStartFailures(t *testing.T) {
	s := connectLab(t)
	stamp := filepath.Join(t.TempDir(), "stamp")
	fails := "[Service]\nExecStartPre=/bin/bash -c 'test -e " + stamp + "'\n" +
		"ExecStart=/bin/sleep 1000\nRestart=on-failure\nRestartSec=100\n"
	installUnits(t, map[string]string{
		"lab-fails.service":     fails,
		"lab-needs.service":     "[Unit]\nRequires=lab-fails.service\nAfter=lab-fails.service\n" + sleepService,
		"lab-condition.service": "[Unit]\nConditionPathExists=" + stamp + "\n" + sleepService,
		"lab-good.service":      sleepService,
		"lab-exit.service": "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/bash -c 'test -e " + stamp +
			" || exit 3; systemd-notify --ready; sleep 1000'\n",
	})
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	names := []string{"lab-fails", "lab-needs", "lab-condition", "lab-good", "lab-exit"}
	runCommand(t, append([]string{"systemctl", "start"}, names...)...)
	p := planAndStop(t, s, names...)
	if err := os.Remove(stamp); err != nil {
		t.Fatal(err)
	}
	failures, err := s.Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]string{}
	for _, f := range failures {
		t.Logf("%v (%s)", f, f.Sub)
		results[f.Unit] = f.Result
	}
	want := map[string]string{
		"lab-fails.service": "exit-code", "lab-needs.service": "dependency",
		"lab-condition.service": "condition", "lab-exit.service": "exit-code",
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Error(diff)
	}
	if up := activeOf(t, "lab-good.service"); len(up) != 1 {
		t.Error("lab-good was not started")
	}
}

func TestLabPlanRefuses(t *testing.T) {
	s := connectLab(t)
	for name, want := range map[string]fault.Code{
		"no-such": fault.NotFound, "ssh": fault.BadArguments, "dbus": fault.BadArguments,
		"systemd-journald": fault.BadArguments, "dat.mount": fault.BadArguments, "postgresql@": fault.BadArguments,
	} {
		if _, err := s.Plan(t.Context(), []string{name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if unit := s.proc.Unit(os.Getpid()); unit == "" || !s.Protected(unit) {
		t.Errorf("we run in %q, which is not protected", unit)
	}
}

func TestLabTransient(t *testing.T) {
	s := connectLab(t)
	dir := t.TempDir()
	post := filepath.Join(dir, "post")
	unit := Transient{
		Name: "rewind-lab-test.service", Description: "test", Exec: []string{"/bin/sleep", "1000"},
		StopPost: []string{"/bin/bash", "-c", "sleep 1; echo -n $SERVICE_RESULT $A > " + post},
		Limit:    time.Hour, StopLimit: time.Minute, Environment: []string{"A=b c"},
	}
	if err := s.StartTransient(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	if err := s.StartTransient(t.Context(), unit); !errors.Is(err, fault.Exists) {
		t.Errorf("a second one: %v, want exists", err)
	}
	pid, err := strconv.Atoi(runCommand(t, "systemctl", "show", "-P", "MainPID", unit.Name))
	if err != nil || s.proc.Unit(pid) != unit.Name {
		t.Errorf("unit of %d is %q, %v", pid, s.proc.Unit(pid), err)
	}
	runCommand(t, "kill", "-KILL", strconv.Itoa(pid))
	if err := s.Wait(t.Context(), unit.Name); err != nil {
		t.Fatal(err)
	}
	if output, err := os.ReadFile(post); string(output) != "signal b c" {
		t.Errorf("ExecStopPost= wrote %q, %v", output, err)
	}
	if isActive, err := s.Active(t.Context(), unit.Name); isActive || err != nil {
		t.Errorf("still active: %v, %v", isActive, err)
	}
	// The name is free again, the limit takes effect, and a missing program is an error.
	unit.Limit = time.Second
	if err := s.StartTransient(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), unit.Name); err != nil {
		t.Fatal(err)
	}
	if output, _ := os.ReadFile(post); string(output) != "timeout b c" {
		t.Errorf("ExecStopPost= wrote %q", output)
	}
	unit.Exec = []string{"/no/such/program"}
	if err := s.StartTransient(t.Context(), unit); !errors.Is(err, fault.ServiceFailed) {
		t.Errorf("no such program: %v, want service_failed", err)
	}
}

// When its package is upgraded, systemd executes itself again, which ends all connections.
func TestLabWaitsThroughReexecution(t *testing.T) {
	s := connectLab(t)
	installUnits(t, map[string]string{"lab-slow.service": "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sleep 6\n"})
	runCommand(t, "systemctl", "start", "lab-slow")
	if err := s.StartTransient(t.Context(), Transient{
		Name: "rewind-lab-reexec.service", Description: "test", Exec: []string{"/bin/sleep", "8"}, StopLimit: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 2)
	go func() { waited <- s.Wait(context.WithoutCancel(t.Context()), "rewind-lab-reexec.service") }()
	go func() {
		waited <- s.Stop(context.WithoutCancel(t.Context()), Plan{Stop: []string{"lab-slow.service"}}, time.Minute)
	}()
	time.Sleep(time.Second)
	runCommand(t, "systemctl", "daemon-reexec")
	for range 2 {
		if err := <-waited; err != nil {
			t.Error(err)
		}
	}
	if up := activeOf(t, "lab-slow.service", "rewind-lab-reexec.service"); len(up) != 0 {
		t.Errorf("still active: %v", up)
	}
}

func TestLabAutomount(t *testing.T) {
	s := connectLab(t)
	point := os.Getenv("REWIND_LAB_MOUNT")
	planAndStop(t, s, "postgresql")
	t.Cleanup(func() { runCommand(t, "systemctl", "start", "postgresql") })
	name := EscapePath(point) + ".automount"
	runCommand(t, "systemctl", "stop", MountUnit(point))
	installUnits(t, map[string]string{name: "[Automount]\nWhere=" + point + "\n"})
	runCommand(t, "systemctl", "start", name)
	if _, err := os.ReadDir(point); err != nil { // the access mounts the file system
		t.Fatal(err)
	}
	t.Cleanup(func() { runCommand(t, "systemctl", "start", MountUnit(point)) })

	p, err := s.Automounts(t.Context(), []string{MountUnit(point), "no-such.mount"})
	if err != nil || !slices.Equal(p.Active, []string{name}) {
		t.Fatalf("%+v, %v", p, err)
	}
	const hold = "rewind-hold-lab.service"
	if err := s.Hold(t.Context(), hold, "Rewind: lab", []string{MountUnit(point)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Release(context.Background(), hold) })
	if err := filesystem.Unmount(point); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := os.ReadDir(point)
		read <- err
	}()
	waiting := func() bool { return strings.Contains(runCommand(t, "systemctl", "list-jobs"), MountUnit(point)) }
	for !waiting() {
		time.Sleep(20 * time.Millisecond)
	}
	if len(read) != 0 {
		t.Error("the automount point was read while its mount unit was held")
	}
	if err := s.Release(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Errorf("the read that waited at the automount point: %v", err)
	}
	if up := activeOf(t, name, MountUnit(point)); len(up) != 2 {
		t.Errorf("active: %v", up)
	}
}
