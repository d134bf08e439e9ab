package schedule

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// timerState is what systemd knows about a timer.
type timerState struct {
	exists  bool // systemd finds the unit
	active  bool
	failed  bool // the timer could not start its service
	enabled bool // systemd starts it at the next boot
	loaded  bool // systemd has read its files since they were last changed

	persistent bool // systemd keeps the time of its last run
}

func (p Places) state(ctx context.Context, name string) (s timerState, err error) {
	const properties = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,Persistent"
	out, err := p.Commands.Run(ctx, command.Cmd{Argv: []string{"systemctl", "show", "-p", properties, Timer(name)}})
	for line := range strings.Lines(out.Stdout) {
		switch strings.TrimSpace(line) {
		case "LoadState=loaded":
			s.exists = true
		case "ActiveState=active":
			s.active = true
		case "ActiveState=failed":
			s.failed = true
		case "UnitFileState=enabled":
			s.enabled = true
		case "NeedDaemonReload=no":
			s.loaded = true
		case "Persistent=yes":
			s.persistent = true
		}
	}
	return s, err
}

func (p Places) systemctl(ctx context.Context, args ...string) error {
	_, err := p.Commands.Run(ctx, command.Cmd{Argv: append([]string{"systemctl", "--quiet"}, args...), Changes: true})
	if err != nil {
		return fault.New(fault.ServiceFailed, "%w", err).WithHint("systemctl status says why; run the same again")
	}
	return nil
}

// forgetRuns removes the time of the last run of a timer that is not active. systemd refuses that for a timer in the
// state failed, which is one whose service could not be started, and for one that an administrator has set
// Persistent=false for, of which it keeps no time.
func (p Places) forgetRuns(ctx context.Context, name string) error {
	current, err := p.state(ctx, name)
	if err != nil {
		return err
	}
	if current.failed {
		if err := p.systemctl(ctx, "reset-failed", Timer(name)); err != nil {
			return err
		}
	}
	if !current.persistent {
		return nil
	}
	return p.systemctl(ctx, "clean", "--what=state", Timer(name))
}
