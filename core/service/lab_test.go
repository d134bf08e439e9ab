//go:build lab

// These tests ask a real systemd, as root, on a machine that may be harmed and
// that has Debian's PostgreSQL running:
//
//	CGO_ENABLED=0 go test -c -tags lab -o service.test ./core/service
//	REWIND_LAB_MOUNT=/dat ./service.test -test.v -test.run Lab    # there
//
// /dat stands for a mounted file system with a mount unit of its own.
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

func sh(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func lab(t *testing.T) *Systemd {
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

// install makes units of these texts for the length of the test.
func install(t *testing.T, units map[string]string) {
	t.Helper()
	dir := "/run/systemd/system"
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		var names []string
		for name := range units {
			names = append(names, name)
			_ = os.Remove(filepath.Join(dir, name))
		}
		sh(t, "systemctl", "daemon-reload") // Upholds= and Restart= end here
		for _, verb := range [][]string{{"kill", "-s", "KILL"}, {"stop"}, {"reset-failed"}} {
			_ = exec.Command("systemctl", append(verb, names...)...).Run()
		}
	})
}

const sleeper = "[Service]\nExecStart=/bin/sleep 10000\n"

func active(t *testing.T, units ...string) []string {
	t.Helper()
	var up []string
	for _, name := range units {
		if out, _ := exec.Command("systemctl", "is-active", name).Output(); strings.TrimSpace(string(out)) == "active" {
			up = append(up, name)
		}
	}
	return up
}

func stopStart(t *testing.T, s *Systemd, names ...string) Plan {
	t.Helper()
	p := plan(t, s, names...)
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

// postgresql.service is a shell: stopping it alone may return before the
// cluster has stopped.
func TestLabPostgreSQL(t *testing.T) {
	s := lab(t)
	sh(t, "systemctl", "start", "postgresql")
	instance := strings.Fields(sh(t, "systemctl", "list-units", "--plain", "--no-legend", "--state=active", "postgresql@*"))[0]
	both := []string{"postgresql.service", instance}
	p := stopStart(t, s, "postgresql")
	if out, err := exec.Command("pgrep", "-x", "postgres").Output(); err == nil {
		t.Errorf("postgres processes are left: %s", out)
	}
	if up := active(t, both...); len(up) != 0 {
		t.Errorf("still active: %v", up)
	}
	startAgain(t, s, p)
	if diff := cmp.Diff(both, active(t, both...)); diff != "" {
		t.Error(diff)
	}
	// A cluster that its administrator has stopped stays so.
	sh(t, "systemctl", "stop", instance)
	startAgain(t, s, stopStart(t, s, "postgresql"))
	if diff := cmp.Diff(both[:1], active(t, both...)); diff != "" {
		t.Error(diff)
	}
	sh(t, "systemctl", "start", instance)
}

func TestLabDependentsAndTriggers(t *testing.T) {
	s := lab(t)
	dir := t.TempDir()
	install(t, map[string]string{
		"lab-db.service":    "[Unit]\nUpholds=lab-kept.service\n" + sleeper,
		"lab-app.service":   "[Unit]\nRequires=lab-db.service\nAfter=lab-db.service\n" + sleeper,
		"lab-part.service":  "[Unit]\nPartOf=lab-app.service\n" + sleeper,
		"lab-idle.service":  "[Unit]\nRequires=lab-db.service\n" + sleeper,
		"lab-db.timer":      "[Timer]\nOnUnitInactiveSec=1s\nAccuracySec=1ms\n",
		"lab-app.socket":    "[Socket]\nListenStream=" + dir + "/socket\n",
		"lab-db.path":       "[Path]\nPathExists=/etc/passwd\n",
		"lab-wants.target":  "[Unit]\nRequires=lab-db.service\n",
		"lab-spare.service": "[Unit]\nStopWhenUnneeded=yes\n" + sleeper,
		"lab-user.service":  "[Unit]\nPartOf=lab-db.service\nRequires=lab-spare.service\nAfter=lab-spare.service\n" + sleeper,
		"lab-kept.service":  sleeper,
	})
	sh(t, "systemctl", "start", "lab-wants.target", "lab-app.socket", "lab-app", "lab-part", "lab-db.timer", "lab-db.path", "lab-user")
	all := []string{
		"lab-app.service", "lab-app.socket", "lab-db.path", "lab-db.service", "lab-db.timer", "lab-idle.service", "lab-part.service",
		"lab-spare.service", "lab-user.service", "lab-wants.target", "lab-kept.service",
	}
	before := active(t, all...)
	p := stopStart(t, s, "lab-db", "lab-kept")
	if diff := cmp.Diff([]string{"lab-wants.target"}, active(t, all...)); diff != "" {
		t.Errorf("after the stop: %s", diff)
	}
	time.Sleep(1500 * time.Millisecond) // the timer's second passes
	if diff := cmp.Diff([]string{"lab-wants.target"}, active(t, all...)); diff != "" {
		t.Errorf("something woke up: %s", diff)
	}
	startAgain(t, s, p)
	if diff := cmp.Diff(before, active(t, all...)); diff != "" {
		t.Errorf("after the start: %s", diff)
	}
}

func TestLabServiceThatIgnoresSIGTERM(t *testing.T) {
	s := lab(t)
	install(t, map[string]string{"lab-deaf.service": "[Service]\nTimeoutStopSec=4\nType=notify\nNotifyAccess=all\n" +
		"ExecStart=/bin/bash -c 'trap \"\" TERM; systemd-notify --ready; while :; do sleep 1; done'\n"})
	sh(t, "systemctl", "start", "lab-deaf")
	p := plan(t, s, "lab-deaf")
	err := s.Stop(t.Context(), p, time.Second)
	if !errors.Is(err, fault.Timeout) {
		t.Fatalf("before systemd kills it: %v, want timeout", err)
	}
	if left, _ := fault.Of(err).Facts["processes"].([]Process); len(left) == 0 || left[0].Command == "" {
		t.Errorf("processes left: %+v", left)
	}
	startAgain(t, s, p) // after the stop that is still under way
	if err := s.Stop(t.Context(), p, time.Minute); err != nil {
		t.Fatal(err)
	}
	startAgain(t, s, p)
	if up := active(t, "lab-deaf.service"); len(up) != 1 {
		t.Error("it is not active again")
	}
}

// KillMode=process leaves children behind; they may still write.
func TestLabProcessThatOutlivesItsService(t *testing.T) {
	s := lab(t)
	install(t, map[string]string{"lab-leaves.service": "[Service]\nKillMode=process\n" +
		"ExecStart=/bin/bash -c 'sleep 3 & exec sleep 1000'\n"})
	sh(t, "systemctl", "start", "lab-leaves")
	group := "/sys/fs/cgroup" + sh(t, "systemctl", "show", "-P", "ControlGroup", "lab-leaves")
	stopStart(t, s, "lab-leaves")
	if left := members(group); len(left) != 0 {
		t.Errorf("returned with %v left", left)
	}
}

func TestLabStartFailures(t *testing.T) {
	s := lab(t)
	stamp := filepath.Join(t.TempDir(), "stamp")
	fails := "[Service]\nExecStartPre=/bin/bash -c 'test -e " + stamp + "'\nExecStart=/bin/sleep 1000\nRestart=on-failure\nRestartSec=100\n"
	install(t, map[string]string{
		"lab-fails.service":     fails,
		"lab-needs.service":     "[Unit]\nRequires=lab-fails.service\nAfter=lab-fails.service\n" + sleeper,
		"lab-condition.service": "[Unit]\nConditionPathExists=" + stamp + "\n" + sleeper,
		"lab-good.service":      sleeper,
		"lab-exit.service":      "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/bash -c 'test -e " + stamp + " || exit 3; systemd-notify --ready; sleep 1000'\n",
	})
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	names := []string{"lab-fails", "lab-needs", "lab-condition", "lab-good", "lab-exit"}
	sh(t, append([]string{"systemctl", "start"}, names...)...)
	p := stopStart(t, s, names...)
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
		"lab-fails.service": "exit-code", "lab-needs.service": "dependency", "lab-condition.service": "condition", "lab-exit.service": "exit-code",
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Error(diff)
	}
	if up := active(t, "lab-good.service"); len(up) != 1 {
		t.Error("lab-good was not started")
	}
}

func TestLabPlanRefuses(t *testing.T) {
	s := lab(t)
	for name, want := range map[string]fault.Code{
		"no-such": fault.NotFound, "ssh": fault.BadArguments, "dbus": fault.BadArguments, "systemd-journald": fault.BadArguments,
		"dat.mount": fault.BadArguments, "postgresql@": fault.BadArguments,
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
	s := lab(t)
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
	pid, err := strconv.Atoi(sh(t, "systemctl", "show", "-P", "MainPID", unit.Name))
	if err != nil || s.proc.Unit(pid) != unit.Name {
		t.Errorf("unit of %d is %q, %v", pid, s.proc.Unit(pid), err)
	}
	sh(t, "kill", "-KILL", strconv.Itoa(pid))
	if err := s.Wait(t.Context(), unit.Name); err != nil {
		t.Fatal(err)
	}
	if said, err := os.ReadFile(post); string(said) != "signal b c" {
		t.Errorf("ExecStopPost= said %q, %v", said, err)
	}
	if on, err := s.Active(t.Context(), unit.Name); on || err != nil {
		t.Errorf("still active: %v, %v", on, err)
	}
	// Its name is free, its limit is kept, and a program that is not there is an error.
	unit.Limit = time.Second
	if err := s.StartTransient(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), unit.Name); err != nil {
		t.Fatal(err)
	}
	if said, _ := os.ReadFile(post); string(said) != "timeout b c" {
		t.Errorf("ExecStopPost= said %q", said)
	}
	unit.Exec = []string{"/no/such/program"}
	if err := s.StartTransient(t.Context(), unit); !errors.Is(err, fault.ServiceFailed) {
		t.Errorf("no such program: %v, want service_failed", err)
	}
}

// An upgrade of systemd makes it execute itself again, which ends connections.
func TestLabWaitsThroughReexecution(t *testing.T) {
	s := lab(t)
	install(t, map[string]string{"lab-slow.service": "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sleep 6\n"})
	sh(t, "systemctl", "start", "lab-slow")
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
	sh(t, "systemctl", "daemon-reexec")
	for range 2 {
		if err := <-waited; err != nil {
			t.Error(err)
		}
	}
	if up := active(t, "lab-slow.service", "rewind-lab-reexec.service"); len(up) != 0 {
		t.Errorf("still active: %v", up)
	}
}

func TestLabAutomount(t *testing.T) {
	s := lab(t)
	point := os.Getenv("REWIND_LAB_MOUNT")
	stopStart(t, s, "postgresql")
	t.Cleanup(func() { sh(t, "systemctl", "start", "postgresql") })
	name := EscapePath(point) + ".automount"
	sh(t, "systemctl", "stop", MountUnit(point))
	install(t, map[string]string{name: "[Automount]\nWhere=" + point + "\n"})
	sh(t, "systemctl", "start", name)
	if _, err := os.ReadDir(point); err != nil { // mounts it
		t.Fatal(err)
	}
	t.Cleanup(func() { sh(t, "systemctl", "start", MountUnit(point)) })

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
	waiting := func() bool { return strings.Contains(sh(t, "systemctl", "list-jobs"), MountUnit(point)) }
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
		t.Errorf("whoever waited at the automount point: %v", err)
	}
	if up := active(t, name, MountUnit(point)); len(up) != 2 {
		t.Errorf("active: %v", up)
	}
}
