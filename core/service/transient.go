package service

import (
	"context"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"go.pcc.com/rewind/core/fault"
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

func (t Transient) properties() []sd.Property {
	set := func(name string, value any) sd.Property {
		return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	properties := []sd.Property{
		sd.PropDescription(t.Description),
		sd.PropType("exec"), // the start fails if the program cannot be executed
		sd.PropExecStart(t.Exec, false),
		// Only the main process is killed: an lvcreate or mount that it started must come to its end.
		set("KillMode", "process"),
		// Nothing is to be cleaned up by hand, and the name is free again.
		set("CollectMode", "inactive-or-failed"),
		// Lets the program and StopPost prolong their limits as long as they get on.
		set("NotifyAccess", "exec"),
		set("TimeoutStopUSec", uint64(t.StopLimit.Microseconds())),
		set("Environment", t.Environment),
	}
	if t.Limit > 0 {
		properties = append(properties, set("RuntimeMaxUSec", uint64(t.Limit.Microseconds())))
	}
	if len(t.StopPost) > 0 {
		post := sd.PropExecStart(t.StopPost, false)
		post.Name = "ExecStopPost"
		properties = append(properties, post)
	}
	return properties
}
