package service

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
)

// Stop stops the plan's units, at the same time as far as their order allows. It returns when each of them is down and
// has no process left, except for what it leaves behind (Outliving). Units that start others are stopped first, so that
// nothing is started meanwhile. It is no error if a unit is down already.
//
// Stop waits until systemd kills a service that ignores SIGTERM (TimeoutStopSec=). At limit it returns the fault
// timeout, which names the processes that are left; systemd goes on stopping the units. After any error Start can start
// the plan's active units again. Faults besides the common ones: unsupported without cgroup v2, service_failed if
// something else starts a unit again.
func (s *Systemd) Stop(ctx context.Context, p Plan, limit time.Duration) error {
	return s.StopAndEnd(ctx, p, limit, func(context.Context) error { return nil })
}

// StopAndEnd is Stop, and calls end when all units are down, before it waits for the last of their processes: end may
// end what the units leave behind. An error of end is returned.
func (s *Systemd) StopAndEnd(
	ctx context.Context, p Plan, limit time.Duration, end func(context.Context) error,
) error {
	if s.cgroups == "" {
		return fault.New(fault.Unsupported,
			"this system has no unified control groups (cgroup v2), which tell when a service has really ended")
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	groups, err := s.controlGroups(limited, p.Stop)
	if err != nil {
		return err
	}
	jobs := make(map[string]<-chan string)
	for _, name := range p.Stop {
		job, err := s.bus.Stop(limited, name)
		if bus.IsError(err, bus.NoSuchUnit) {
			continue // not even loaded: it cannot run
		}
		if err != nil {
			return busFault(limited, err, "stop %s", name)
		}
		jobs[name] = job
	}
	var errs []error
	for _, name := range p.Stop {
		if job := jobs[name]; job != nil {
			errs = append(errs, s.waitStopped(limited, name, job, groups[name], limit))
		}
	}
	if err := fault.All(errs...); err != nil {
		return err
	}
	if err := end(ctx); err != nil {
		return err
	}
	for _, name := range p.Stop {
		errs = append(errs, s.waitNoProcess(limited, name, groups[name], limit))
	}
	return fault.All(errs...)
}

// controlGroups returns the control groups of the units. It must be called before the stop, because systemd forgets
// them at the stop.
func (s *Systemd) controlGroups(ctx context.Context, units []string) (map[string]string, error) {
	groups := make(map[string]string)
	typeNames := map[string]string{"service": "Service", "socket": "Socket"} // units of other types have no processes
	for _, name := range units {
		typeName := typeNames[typeOf(name)]
		if typeName == "" {
			continue
		}
		group, err := s.bus.Property(ctx, name, typeName, "ControlGroup")
		if err != nil {
			return nil, busFault(ctx, err, "control group of %s", name)
		}
		groups[name], _ = group.(string)
	}
	return groups, nil
}

// waitStopped waits until a unit is down. job is its stop job.
func (s *Systemd) waitStopped(
	ctx context.Context, name string, job <-chan string, group string, limit time.Duration,
) error {
	if _, err := s.jobResult(ctx, name, job); err != nil {
		return s.notStopped(ctx, name, group, limit)
	}
	err := s.waitDown(ctx, name)
	if err != nil && ctx.Err() != nil {
		return s.notStopped(ctx, name, group, limit)
	}
	return err
}

// waitNoProcess waits until the control group of a unit that is down is empty. For what the unit leaves behind it waits
// only a moment.
func (s *Systemd) waitNoProcess(ctx context.Context, name string, group string, limit time.Duration) error {
	if group == "" {
		return nil
	}
	grace, cancel := context.WithTimeout(ctx, leaveGrace)
	defer cancel()
	err := waitEmpty(grace, s.cgroups+group)
	if err != nil && grace.Err() != nil && ctx.Err() == nil { // most units never get here: systemd is asked only now
		if k, askErr := s.killing(ctx, name); askErr == nil && k.leaves {
			return nil
		}
		err = waitEmpty(ctx, s.cgroups+group)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return s.notStopped(ctx, name, group, limit)
	}
	return fault.New(fault.ServiceFailed, "%s: %w", name, err)
}

// Process is a process that is left of a unit that should be down.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Unit    string `json:"unit"`
}

// notStopped returns the fault for a unit that is not down at the end of ctx, with the processes that are left.
func (s *Systemd) notStopped(ctx context.Context, name, group string, limit time.Duration) error {
	if ctx.Err() == context.Canceled {
		return fault.New(fault.Interrupted, "stopping %s: %w", name, ctx.Err())
	}
	f := fault.New(fault.Timeout, "%s has not stopped within %v", name, limit).
		WithHint("see systemctl status %s; a longer timeout, or stop it yourself first", name)
	processes := []Process{}
	for _, pid := range processesIn(s.cgroups + group) {
		processes = append(processes, Process{PID: pid, Command: s.proc.Command(pid), Unit: name})
	}
	return f.With("processes", processes)
}

// pollInterval is how often a wait asks for the state, in case the signal that it waits for was lost with the
// connection.
const pollInterval = 2 * time.Second

// jobResult waits for the end of a job and returns its result: done, failed, dependency, timeout, canceled or another
// one (org.freedesktop.systemd1(5), JobRemoved). The result is empty if the job has ended but its result was lost. The
// only error is that of ctx.
func (s *Systemd) jobResult(ctx context.Context, name string, job <-chan string) (string, error) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		select {
		case result := <-job:
			return result, nil
		case <-ctx.Done():
			select {
			case result := <-job: // the job has ended, perhaps while the caller waited for another job
				return result, nil
			default:
				return "", ctx.Err()
			}
		case <-poll.C:
		}
		u, err := s.unit(ctx, name)
		if err != nil || u.hasJob {
			continue // after an error systemd may be executing itself again: ask until ctx ends
		}
		select {
		case result := <-job:
			return result, nil
		default:
			return "", nil
		}
	}
}

// waitDown waits until a unit whose stop job has ended is down. If it is up, something else has started it:
// service_failed.
func (s *Systemd) waitDown(ctx context.Context, name string) error {
	return s.waitFor(ctx, name, func(u unit) (bool, error) {
		if u.isUp() {
			return false, fault.New(fault.ServiceFailed,
				"%s was started again by something else while it was being stopped", name).
				WithHint("systemctl status %s shows what triggers it; name that in services, too", name)
		}
		return u.isDown(), nil
	})
}

// Wait waits until a service is down and its ExecStopPost= has ended. A unit that systemd does not know, or no longer
// knows, is down. Wait ends the connection while the main process runs (Rest).
func (s *Systemd) Wait(ctx context.Context, name string) error {
	value, err := s.bus.Property(ctx, name, "Service", "MainPID")
	if mainPID, ok := value.(uint32); err == nil && ok && mainPID != 0 {
		s.Disconnect()
		s.waitProcess(ctx, name, int(mainPID))
	}
	return s.waitFor(ctx, name, func(u unit) (bool, error) { return u.isDown(), nil })
}

// waitFor waits until a unit meets a condition. It asks whenever the unit changes, and every pollInterval.
func (s *Systemd) waitFor(ctx context.Context, name string, met func(unit) (bool, error)) error {
	u, err := s.unit(ctx, name)
	if err != nil {
		return err
	}
	if ok, err := met(u); ok || err != nil {
		return err
	}
	changed, end, err := s.bus.Watch(ctx, name)
	if err != nil {
		return busFault(ctx, err, "watch %s", name)
	}
	defer end()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		u, err := s.unit(ctx, name)
		if ctx.Err() != nil {
			return fault.New(fault.Of(ctx.Err()).Code, "waiting for %s: %w", name, ctx.Err())
		}
		if err == nil { // else systemd may be executing itself again
			if ok, err := met(u); ok || err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-ctx.Done():
		}
	}
}
