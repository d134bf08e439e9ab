package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
)

// Failure is a unit that did not start.
type Failure struct {
	Unit    string `json:"unit"`
	Result  string `json:"result"`  // systemd's name of the cause: exit-code, signal, timeout, dependency, …
	Sub     string `json:"sub"`     // its state now, such as failed or auto-restart
	Message string `json:"message"` // the cause in words
}

func (f Failure) Error() string { return fmt.Sprintf("%s did not start: %s", f.Unit, f.Message) }

// Fault returns the failure as a fault service_failed with the fact "failed_services".
func (f Failure) Fault() *fault.Error {
	return fault.New(fault.ServiceFailed, "%s", f.Error()).With("failed_services", []Failure{f}).
		WithHint("journalctl -b -u %s shows why; then systemctl start %s", f.Unit, f.Unit)
}

// resultLimit is the longest time for asking systemd about all units whose starts are over.
const resultLimit = time.Minute

// Start starts the plan's active units, and only those, as fast as their order allows. It returns when each of them has
// started or failed, with the units that failed. A unit that fails keeps only those units from starting that require
// it. When the deadline of ctx passes, the units that are not up yet are returned as failures, and systemd goes on
// starting them. The units in p.Begun are not waited for. An error means that systemd cannot be asked or that ctx was
// cancelled; in the second case too, systemd goes on starting the units.
func (s *Systemd) Start(ctx context.Context, p Plan) ([]Failure, error) {
	if err := s.waitStopping(ctx, p.Active); err != nil {
		return nil, err
	}
	jobs := make(map[string]<-chan string)
	var failures []Failure
	for _, name := range p.Active {
		// Several rollbacks in a row would otherwise reach the unit's StartLimitBurst=.
		_ = s.bus.ResetFailed(ctx, name)
		mode := bus.UnitOnly
		if slices.Contains(p.Pulling, name) {
			mode = bus.WithDependencies
		}
		job, err := s.bus.Start(ctx, name, mode)
		if ctx.Err() != nil {
			return failures, busFault(ctx, err, "start %s", name)
		}
		if err != nil {
			failures = append(failures, Failure{Unit: name, Result: "refused", Message: err.Error()})
			continue
		}
		jobs[name] = job
	}
	results := make(map[string]string)
	for _, name := range p.Active {
		if jobs[name] == nil || slices.Contains(p.Begun, name) {
			continue
		}
		result, err := s.jobResult(ctx, name, jobs[name])
		switch {
		case err == nil:
			results[name] = result
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			jobs[name] = nil
			failures = append(failures, Failure{Unit: name, Result: "timeout", Sub: "start", Message: "its start goes on"})
		default:
			return failures, busFault(ctx, err, "waiting for %s to start", name)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultLimit)
	defer cancel()
	// The states are read only now, because a service of Type=simple counts as started before it fails.
	for _, name := range p.Active {
		if jobs[name] == nil {
			continue
		}
		failure, err := s.failureOf(ctx, name, results[name])
		if err != nil {
			return failures, err
		}
		if failure != nil {
			failures = append(failures, *failure)
		}
	}
	return failures, nil
}

// waitStopping waits for units that an earlier Stop has left stopping, if a socket is to be started: a socket refuses
// to start while its service still runs.
func (s *Systemd) waitStopping(ctx context.Context, units []string) error {
	if !slices.ContainsFunc(units, func(name string) bool { return typeOf(name) == "socket" }) {
		return nil
	}
	for _, name := range units {
		if err := s.waitFor(ctx, name, func(u unit) (bool, error) { return u.active != "deactivating", nil }); err != nil {
			return err
		}
	}
	return nil
}

// failureOf returns the failure of a unit whose start job has ended with result. It returns nil if the unit has
// started.
func (s *Systemd) failureOf(ctx context.Context, name, result string) (*Failure, error) {
	u, err := s.unit(ctx, name)
	if err != nil {
		return nil, err
	}
	f := &Failure{Unit: name, Result: result, Sub: u.sub}
	switch {
	case u.active == "active" || u.active == "reloading" || u.active == "refreshing":
		return nil, nil
	case result == "dependency":
		f.Message = "a unit that it requires did not start"
		return f, nil
	case !u.conditionsMet && u.active == "inactive":
		f.Result, f.Message = "condition", "its conditions (Condition…=) are not met any more"
		return f, nil
	}
	run, err := s.readLastRun(ctx, name)
	if err != nil {
		return nil, err
	}
	succeeded := result == "done" || result == ""
	if succeeded && run.result == "success" && u.active != "failed" && u.sub != "auto-restart" {
		return nil, nil // a oneshot service that has finished, or a start that another job continues
	}
	if run.result != "success" {
		f.Result = run.result
	}
	f.Message = run.explain(f.Result)
	return f, nil
}

// lastRun is what systemd remembers of a unit's last run.
type lastRun struct {
	result     string // success, exit-code, signal, timeout, …
	mainCode   int32  // how the main process ended: CLD_EXITED, CLD_KILLED or CLD_DUMPED of waitid(2)
	mainStatus int32  // the exit status or the signal of the main process
	statusText string // what the service reported of its state: STATUS= of sd_notify(3)
}

const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

func (s *Systemd) readLastRun(ctx context.Context, name string) (lastRun, error) {
	typeNames := map[string]string{
		"service": "Service", "socket": "Socket", "timer": "Timer", "path": "Path",
		"automount": "Automount", "mount": "Mount",
	}
	typeName := typeNames[typeOf(name)]
	if typeName == "" {
		return lastRun{result: "success"}, nil // a target has no result
	}
	r := lastRun{}
	for property, store := range map[string]func(any){
		"Result":         func(v any) { r.result, _ = v.(string) },
		"ExecMainCode":   func(v any) { r.mainCode, _ = v.(int32) },
		"ExecMainStatus": func(v any) { r.mainStatus, _ = v.(int32) },
		"StatusText":     func(v any) { r.statusText, _ = v.(string) },
	} {
		if property != "Result" && typeName != "Service" {
			continue
		}
		value, err := s.bus.Property(ctx, name, typeName, property)
		if err != nil {
			return lastRun{}, busFault(ctx, err, "result of %s", name)
		}
		store(value)
	}
	return r, nil
}

// explain describes a result in words (systemd.service(5), $SERVICE_RESULT).
func (r lastRun) explain(result string) string {
	serviceSaid := ""
	if r.statusText != "" {
		serviceSaid = fmt.Sprintf("; it said: %q", r.statusText)
	}
	switch {
	case r.mainCode == cldExited && r.mainStatus != 0:
		return fmt.Sprintf("its main process ended with status %d (%s)%s", r.mainStatus, result, serviceSaid)
	case r.mainCode == cldKilled || r.mainCode == cldDumped:
		return fmt.Sprintf("its main process was killed by %s (%s)%s",
			unix.SignalName(unix.Signal(r.mainStatus)), result, serviceSaid)
	}
	words := map[string]string{
		"timeout":         "it was not ready within its TimeoutStartSec=",
		"start-limit-hit": "it was started too often (StartLimitBurst=)",
		"protocol":        "it ended without saying that it is ready",
		"resources":       "systemd could not prepare its start",
		"exit-code":       "one of its start commands failed",
		"canceled":        "another request took its place",
		"assert":          "its assertions (Assert…=) are not met",
	}
	if word, ok := words[result]; ok {
		return word + serviceSaid
	}
	return "systemd says " + result + serviceSaid
}
