package service

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/dbus"
)

// Transient is a unit that exists while it runs. It does not end with whoever
// started it.
type Transient struct {
	Name        string // rewind-….service
	Description string
	Exec        []string      // argv; an absolute path first
	StopPost    []string      // argv of what runs after Exec has ended in any way, SIGKILL too; none if empty
	Limit       time.Duration // Exec gets SIGTERM then; 0: never
	StopLimit   time.Duration // between SIGTERM and SIGKILL, and again for StopPost; either may ask for more (sd_notify(3))
	Environment []string      // KEY=VALUE
}

// StartTransient starts the unit and returns when its program runs. exists if
// there is a unit of that name, service_failed if it could not be started.
func (s *Systemd) StartTransient(ctx context.Context, t Transient) error {
	job, err := s.bus.startTransient(ctx, t.Name, t.properties())
	if isBus(err, unitExists) {
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

func (t Transient) properties() []property {
	properties := []property{
		{"Description", t.Description},
		{"Type", "exec"}, // the start fails if the program cannot be executed
		{"ExecStart", commandLine(t.Exec)},
		// Only the main process is killed: an lvcreate or mount that it started must come to its end.
		{"KillMode", "process"},
		// Nothing is to be cleaned up by hand, and the name is free again.
		{"CollectMode", "inactive-or-failed"},
		// Lets the program and StopPost prolong their limits as long as they get on.
		{"NotifyAccess", "exec"},
		{"TimeoutStopUSec", uint64(t.StopLimit.Microseconds())},
		{"Environment", t.Environment},
	}
	if t.Limit > 0 {
		properties = append(properties, property{"RuntimeMaxUSec", uint64(t.Limit.Microseconds())})
	}
	if len(t.StopPost) > 0 {
		properties = append(properties, property{"ExecStopPost", commandLine(t.StopPost)})
	}
	return properties
}

// commandLine is a list of one command: its program, its argv, and that its failure counts.
func commandLine(argv []string) dbus.Array {
	return dbus.Array{Of: "(sasb)", Items: []any{dbus.Struct{argv[0], argv, false}}}
}
