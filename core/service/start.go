package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Failure is a unit that did not start.
type Failure struct {
	Unit    string `json:"unit"`
	Result  string `json:"result"`  // systemd's word: exit-code, signal, timeout, dependency, …
	Sub     string `json:"sub"`     // the state it is in now, such as failed or auto-restart
	Message string `json:"message"` // the same for people
}

func (f Failure) Error() string { return fmt.Sprintf("%s did not start: %s", f.Unit, f.Message) }

// Fault makes it a service_failed with the fact "failed_services".
func (f Failure) Fault() *fault.Error {
	return fault.New(fault.ServiceFailed, "%s", f.Error()).With("failed_services", []Failure{f}).
		WithHint("journalctl -b -u %s shows why; then systemctl start %s", f.Unit, f.Unit)
}

// judgeLimit bounds the questions to systemd about units whose start is over.
const judgeLimit = time.Minute

// Start starts the plan's active units, and only those, as fast as their order
// allows, and returns when each has started or failed. One that fails does not
// keep the others from starting, except those that require it. At the deadline
// of ctx those that are not up yet are failures, and systemd goes on starting
// them; Begun ones are not waited for at all. The error is for systemd being out
// of reach, or for an interruption, after which systemd goes on starting, too.
func (s *Systemd) Start(ctx context.Context, p Plan) ([]Failure, error) {
	if err := s.settled(ctx, p.Active); err != nil {
		return nil, err
	}
	jobs := make(map[string]<-chan string)
	var failures []Failure
	for _, name := range p.Active {
		// Rehearsals in a row would otherwise meet the unit's StartLimitBurst=.
		_ = s.bus.resetFailed(ctx, name)
		mode := alone
		if slices.Contains(p.Pulling, name) {
			mode = usual
		}
		job, err := s.bus.start(ctx, name, mode)
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), judgeLimit)
	defer cancel()
	// The states only now: a service of Type=simple counts as started before it fails.
	for _, name := range p.Active {
		if jobs[name] == nil {
			continue
		}
		failure, err := s.judge(ctx, name, results[name])
		if err != nil {
			return failures, err
		}
		if failure != nil {
			failures = append(failures, *failure)
		}
	}
	return failures, nil
}

// settled waits for units that a Stop left behind on their way down, if a
// socket is to be started: it refuses to while its service still runs.
func (s *Systemd) settled(ctx context.Context, units []string) error {
	if !slices.ContainsFunc(units, func(name string) bool { return kindOf(name) == "socket" }) {
		return nil
	}
	for _, name := range units {
		if err := s.until(ctx, name, func(u unit) (bool, error) { return u.active != "deactivating", nil }); err != nil {
			return err
		}
	}
	return nil
}

// judge tells whether a unit whose start job is over has started.
func (s *Systemd) judge(ctx context.Context, name, result string) (*Failure, error) {
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
	case !u.conditions && u.active == "inactive":
		f.Result, f.Message = "condition", "its conditions (Condition…=) are not met any more"
		return f, nil
	}
	last, err := s.last(ctx, name)
	if err != nil {
		return nil, err
	}
	succeeded := result == "done" || result == ""
	if succeeded && last.result == "success" && u.active != "failed" && u.sub != "auto-restart" {
		return nil, nil // a oneshot that has done its work, or a start that another start carries on
	}
	if last.result != "success" {
		f.Result = last.result
	}
	f.Message = last.explain(f.Result)
	return f, nil
}

// run is what systemd remembers of a unit's last run.
type run struct {
	result string // exit-code, signal, timeout, …; success
	code   int32  // how the main process ended: CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2)
	status int32  // its exit status or signal
	text   string // what the service itself told of its state, sd_notify(3)'s STATUS=
}

const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

func (s *Systemd) last(ctx context.Context, name string) (run, error) {
	typeNames := map[string]string{
		"service": "Service", "socket": "Socket", "timer": "Timer", "path": "Path", "automount": "Automount", "mount": "Mount",
	}
	kind := typeNames[kindOf(name)]
	if kind == "" {
		return run{result: "success"}, nil // a target has no result
	}
	r := run{}
	for property, into := range map[string]func(any){
		"Result":         func(v any) { r.result, _ = v.(string) },
		"ExecMainCode":   func(v any) { r.code, _ = v.(int32) },
		"ExecMainStatus": func(v any) { r.status, _ = v.(int32) },
		"StatusText":     func(v any) { r.text, _ = v.(string) },
	} {
		if property != "Result" && kind != "Service" {
			continue
		}
		value, err := s.bus.property(ctx, name, kind, property)
		if err != nil {
			return run{}, busFault(ctx, err, "result of %s", name)
		}
		into(value)
	}
	return r, nil
}

// explain puts a result into words (systemd.service(5), $SERVICE_RESULT).
func (r run) explain(result string) string {
	said := ""
	if r.text != "" {
		said = fmt.Sprintf("; it said: %q", r.text)
	}
	switch {
	case r.code == cldExited && r.status != 0:
		return fmt.Sprintf("its main process ended with status %d (%s)%s", r.status, result, said)
	case r.code == cldKilled || r.code == cldDumped:
		return fmt.Sprintf("its main process was killed by %s (%s)%s", unix.SignalName(unix.Signal(r.status)), result, said)
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
		return word + said
	}
	return "systemd says " + result + said
}
