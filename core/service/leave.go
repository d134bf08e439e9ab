package service

import (
	"context"
	"slices"
	"time"
)

// leaveGrace is how long Stop waits for the processes of a unit that leaves them behind. It is for those that end by
// themselves when the main process has ended. Tests set their own.
var leaveGrace = 10 * time.Second

// Outliving returns those of the processes that a stop of their unit does not end: systemd ends only the main process
// of a service with KillMode=process, such as cron or a container engine, and none with KillMode=none. Only processes
// of the given units are looked at. A service that is stopped by a command of its own (ExecStop=), as every script in
// /etc/init.d is, is taken to end its processes.
func (s *Systemd) Outliving(ctx context.Context, units []string, pids []int) ([]int, error) {
	var outliving []int
	for _, name := range units {
		if typeOf(name) != "service" {
			continue
		}
		k, err := s.killing(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			if k.leaves && s.proc.Unit(pid) == name && !slices.Contains(k.ended, pid) {
				outliving = append(outliving, pid)
			}
		}
	}
	return outliving, nil
}

// killing says which processes of a service systemd ends at its stop.
type killing struct {
	leaves bool  // it may leave processes behind
	ended  []int // those that it ends nevertheless
}

func (s *Systemd) killing(ctx context.Context, service string) (k killing, err error) {
	ask := func(property string) any {
		value, askErr := s.bus.Property(ctx, service, "Service", property)
		if askErr != nil {
			err = busFault(ctx, askErr, "ask systemd how %s is stopped", service)
		}
		return value
	}
	mode := ask("KillMode")
	if mode != "process" && mode != "none" {
		return killing{}, err
	}
	stopCommands, _ := ask("ExecStop").([]any)
	k.leaves = len(stopCommands) == 0
	if mode == "process" {
		for _, property := range []string{"MainPID", "ControlPID"} {
			pid, _ := ask(property).(uint32)
			k.ended = append(k.ended, int(pid))
		}
	}
	return k, err
}
