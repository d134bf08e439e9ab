package service

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
)

// Transient is a unit that exists while it runs. It goes on after the process that started it has ended.
type Transient struct {
	Name        string // rewind-….service
	Description string
	Exec        []string      // argv; begins with an absolute path
	StopPost    []string      // argv of a program that runs after Exec has ended in any way, even by SIGKILL; empty: none
	Limit       time.Duration // time after which Exec gets SIGTERM; 0: no limit
	StopLimit   time.Duration // from SIGTERM to SIGKILL, and as long for StopPost; both may extend it (sd_notify(3))
	Environment []string      // KEY=VALUE
}

// StartTransient starts a transient unit and returns when its program runs. Faults besides the common ones: exists if
// there is a unit of that name, service_failed if its program could not be executed.
func (s *Systemd) StartTransient(ctx context.Context, t Transient) error {
	job, err := s.bus.StartTransient(ctx, t.Name, t.settings())
	if bus.IsError(err, bus.UnitExists) {
		return fault.New(fault.Exists, "%s runs already", t.Name)
	}
	if err != nil {
		return busFault(ctx, err, "start %s", t.Name)
	}
	result, err := s.jobResult(ctx, t.Name, job)
	if err != nil {
		return busFault(ctx, err, "waiting for %s to start", t.Name)
	}
	if result != "done" && result != "" {
		return Failure{Unit: t.Name, Result: result, Message: t.Exec[0] + " could not be executed"}.Fault()
	}
	return nil
}

func (t Transient) settings() []bus.Setting {
	settings := []bus.Setting{
		{Name: "Description", Value: t.Description},
		{Name: "Type", Value: "exec"}, // the start fails if the program cannot be executed
		{Name: "ExecStart", Value: commandLine(t.Exec)},
		// Only the main process is killed: an lvcreate or mount that it started must come to its end.
		{Name: "KillMode", Value: "process"},
		// systemd unloads the unit even if it failed, so that the name is free again.
		{Name: "CollectMode", Value: "inactive-or-failed"},
		// The program and StopPost may extend their limits while they make progress.
		{Name: "NotifyAccess", Value: "exec"},
		{Name: "TimeoutStopUSec", Value: uint64(t.StopLimit.Microseconds())},
		{Name: "Environment", Value: t.Environment},
	}
	if t.Limit > 0 {
		settings = append(settings, bus.Setting{Name: "RuntimeMaxUSec", Value: uint64(t.Limit.Microseconds())})
	}
	if len(t.StopPost) > 0 {
		settings = append(settings, bus.Setting{Name: "ExecStopPost", Value: commandLine(t.StopPost)})
	}
	return settings
}

// commandLine returns a list of one command for ExecStart= and the like: the program, its argv, and that its failure
// counts.
func commandLine(argv []string) dbus.Array {
	return dbus.Array{Of: "(sasb)", Items: []any{dbus.Struct{argv[0], argv, false}}}
}
