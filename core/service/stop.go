package service

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// Stop stops the plan's units, all at the same time as far as their order
// allows, and returns when each one is down and has no process left. What starts
// others goes first and stays down, so that nothing is woken meanwhile. A unit
// that is down already is no error.
//
// A service that ignores SIGTERM is waited for until systemd kills it
// (TimeoutStopSec=). At limit the error is a timeout that names what is left;
// systemd goes on stopping it. After any error Start brings the plan's active
// units back.
func (s *Systemd) Stop(ctx context.Context, p Plan, limit time.Duration) error {
	if s.cgroups == "" {
		return fault.New(fault.Unsupported, "this system has no unified control groups (cgroup v2), which tell when a service has really ended")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	groups, err := s.groups(ctx, p.Stop)
	if err != nil {
		return err
	}
	jobs := make(map[string]<-chan string)
	for _, name := range p.Stop {
		job, err := s.bus.stop(ctx, name)
		if isBus(err, noSuchUnit) {
			continue // not even loaded: it cannot run
		}
		if err != nil {
			return busFault(ctx, err, "stop %s", name)
		}
		jobs[name] = job
	}
	var errs []error
	for _, name := range p.Stop {
		if job := jobs[name]; job != nil {
			errs = append(errs, s.stopped(ctx, name, job, groups[name], limit))
		}
	}
	return fault.All(errs...)
}

// groups returns the control groups of the units. They must be asked for
// before the stop, because systemd forgets them with it.
func (s *Systemd) groups(ctx context.Context, units []string) (map[string]string, error) {
	groups := make(map[string]string)
	kinds := map[string]string{"service": "Service", "socket": "Socket"} // the others have no processes
	for _, name := range units {
		kind := kinds[kindOf(name)]
		if kind == "" {
			continue
		}
		group, err := s.bus.property(ctx, name, kind, "ControlGroup")
		if err != nil {
			return nil, busFault(ctx, err, "control group of %s", name)
		}
		groups[name], _ = group.(string)
	}
	return groups, nil
}

// stopped waits until a unit is down and its control group is empty.
func (s *Systemd) stopped(ctx context.Context, name string, job <-chan string, group string, limit time.Duration) error {
	if _, err := s.jobResult(ctx, name, job); err != nil {
		return s.left(ctx, name, group, limit)
	}
	if err := s.waitDown(ctx, name); err != nil {
		if ctx.Err() != nil {
			return s.left(ctx, name, group, limit)
		}
		return err
	}
	if group == "" {
		return nil
	}
	if err := waitEmpty(ctx, s.cgroups+group); err != nil {
		if ctx.Err() != nil {
			return s.left(ctx, name, group, limit)
		}
		return fault.New(fault.ServiceFailed, "%s: %w", name, err)
	}
	return nil
}

// Process is one that is left of a unit that should be down.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Unit    string `json:"unit"`
}

// left is the fault for a unit that is not down when the time is over.
func (s *Systemd) left(ctx context.Context, name, group string, limit time.Duration) error {
	if ctx.Err() == context.Canceled {
		return fault.New(fault.Interrupted, "stopping %s: %w", name, ctx.Err())
	}
	f := fault.New(fault.Timeout, "%s has not stopped within %v", name, limit).
		WithHint("see systemctl status %s; a longer timeout, or stop it yourself first", name)
	processes := []Process{}
	for _, pid := range members(s.cgroups + group) {
		processes = append(processes, Process{PID: pid, Command: s.proc.Command(pid), Unit: name})
	}
	return f.With("processes", processes)
}

// netEvery is how often a wait looks for itself, in case the signal it waits
// for was lost with the connection.
const netEvery = 2 * time.Second

// jobResult waits for a job: done, failed, dependency, timeout, canceled and
// more (org.freedesktop.systemd1(5), JobRemoved). Empty if the job is over but
// its result was lost. The error is that of ctx.
func (s *Systemd) jobResult(ctx context.Context, name string, job <-chan string) (string, error) {
	net := time.NewTicker(netEvery)
	defer net.Stop()
	for {
		select {
		case result := <-job:
			return result, nil
		case <-ctx.Done():
			select {
			case result := <-job: // it had ended before, while another one was waited for
				return result, nil
			default:
				return "", ctx.Err()
			}
		case <-net.C:
		}
		u, err := s.unit(ctx, name)
		if err != nil || u.job {
			continue // systemd may be executing itself again: the limit bounds this
		}
		select {
		case result := <-job:
			return result, nil
		default:
			return "", nil
		}
	}
}

// waitDown waits until a unit with no stop job left is down. One that is up
// then was started by somebody else.
func (s *Systemd) waitDown(ctx context.Context, name string) error {
	return s.until(ctx, name, func(u unit) (bool, error) {
		if u.up() {
			return false, fault.New(fault.ServiceFailed, "%s was started again by something else while it was being stopped", name).
				WithHint("systemctl status %s shows what triggers it; name that in services, too", name)
		}
		return u.down(), nil
	})
}

// Wait waits until a service is down, its ExecStopPost= included. A unit that
// systemd does not know, or knows no longer, is down.
func (s *Systemd) Wait(ctx context.Context, name string) error {
	pid, err := s.bus.property(ctx, name, "Service", "MainPID")
	if main, ok := pid.(uint32); err == nil && ok && main != 0 {
		s.Rest()
		s.waitProcess(ctx, name, int(main))
	}
	return s.until(ctx, name, func(u unit) (bool, error) { return u.down(), nil })
}

// until waits for a condition of a unit and looks whenever the unit changes.
func (s *Systemd) until(ctx context.Context, name string, met func(unit) (bool, error)) error {
	u, err := s.unit(ctx, name)
	if err != nil {
		return err
	}
	if ok, err := met(u); ok || err != nil {
		return err
	}
	changed, end, err := s.bus.watch(ctx, name)
	if err != nil {
		return busFault(ctx, err, "watch %s", name)
	}
	defer end()
	net := time.NewTicker(netEvery)
	defer net.Stop()
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
		case <-net.C:
		case <-ctx.Done():
		}
	}
}
