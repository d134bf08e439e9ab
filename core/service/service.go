// Package service stops systemd units and starts them again exactly as they
// were, and runs transient units that outlive their caller.
//
// Its promises: what was active is active again and what was not is not; while
// units are stopped, nothing that would wake them is running; a stopped unit has
// no process left; login sessions, ssh, the bus and our own unit are never
// stopped. systemd is spoken to over D-Bus alone, no program is started.
package service

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service/dbus"
)

// Systemd is a connection to the system's systemd.
type Systemd struct {
	bus     bus
	proc    filesystem.Proc
	cgroups string // where the unified control groups are mounted
	own     string // the unit we run in, empty for none
}

// Connect connects to the system's systemd. The connection outlives ctx, so
// that what was stopped can be started after an interruption; Close ends it.
// unsupported if systemd does not run here, not_root if it does not talk to us.
func Connect(ctx context.Context) (*Systemd, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil, fault.New(fault.Unsupported, "this system does not run systemd, which Rewind needs")
	}
	b, err := dial(ctx, dbus.Private)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return nil, busFault(ctx, err, "connect to systemd")
	}
	if err != nil {
		return nil, fault.New(fault.Unsupported, "cannot reach systemd: %w", err)
	}
	proc := filesystem.Proc("/proc")
	return &Systemd{bus: b, proc: proc, cgroups: unified("/sys/fs/cgroup"), own: proc.Unit(os.Getpid())}, nil
}

// Rest ends the connection until systemd is spoken to again. Whoever is connected is told of every change of every unit,
// and devices are units: while volumes change, those are hundreds of messages to be written and read for nothing.
func (s *Systemd) Rest() { s.bus.rest() }

// Close ends the connection. Jobs under way go on.
func (s *Systemd) Close() { s.bus.close() }

// Active tells whether a unit runs, or is on its way to or from it: its
// ExecStopPost= counts. A unit that systemd does not know is not active.
func (s *Systemd) Active(ctx context.Context, unit string) (bool, error) {
	u, err := s.unit(ctx, unit)
	return err == nil && !u.down(), err
}

// ByProcess returns the services that processes belong to, each once: those that can be stopped and started again, and
// the transient ones, which cannot. Processes of login sessions, of protected units and of none have no part in it.
func (s *Systemd) ByProcess(ctx context.Context, pids []int) (units, transient []string, err error) {
	for _, pid := range pids {
		name := s.proc.Unit(pid)
		if !strings.HasSuffix(name, ".service") || s.Protected(name) || slices.Contains(units, name) || slices.Contains(transient, name) {
			continue
		}
		u, err := s.unit(ctx, name)
		switch {
		case err != nil:
			return nil, nil, err
		case u.transient:
			transient = append(transient, name)
		default:
			units = append(units, name)
		}
	}
	return units, transient, nil
}

// unit is what systemd says of a unit.
type unit struct {
	name       string // its first name, whatever alias was asked for
	load       string // loaded, not-found, masked, error, bad-setting
	active     string // active, reloading, inactive, failed, activating, deactivating, maintenance, refreshing
	sub        string // of its own type: running, exited, listening, auto-restart
	job        bool   // something is queued or running for it
	conditions bool   // Condition…= held when it was last started
	noStop     bool   // RefuseManualStop=
	noStart    bool   // RefuseManualStart=
	unneeded   bool   // StopWhenUnneeded=
	transient  bool   // made by systemd-run(1) or the like: it is gone once it is stopped
	file       string // that defines it; empty for a mount that systemd has found in the kernel's table

	began time.Time // its last run

	after      []string
	dependents []string // stopped by systemd, too, whenever this one is
	bound      []string // those of them that it stops even if nobody told it to stop this one, as when a mount is gone
	triggers   []string // sockets, timers, paths that start it
	upheldBy   []string // start it whenever they find it stopped
	pulls      []string // what its start brings up; systemd may stop those as unneeded
}

// down tells whether nothing of the unit runs.
func (u unit) down() bool { return u.active == "inactive" || u.active == "failed" }

// up tells whether it runs, or will without further request.
func (u unit) up() bool { return !u.down() && u.active != "deactivating" }

func (s *Systemd) unit(ctx context.Context, name string) (unit, error) {
	props, err := s.bus.unit(ctx, name)
	if err != nil {
		return unit{}, busFault(ctx, err, "ask systemd about %s", name)
	}
	p := properties(props)
	return unit{
		name: p.text("Id"), load: p.text("LoadState"), active: p.text("ActiveState"), sub: p.text("SubState"),
		job: p.job(), conditions: p.flag("ConditionResult"),
		noStop: p.flag("RefuseManualStop"), noStart: p.flag("RefuseManualStart"),
		unneeded: p.flag("StopWhenUnneeded"), transient: p.flag("Transient"),
		began: time.UnixMicro(int64(p.count("InactiveExitTimestamp"))),
		file:  p.text("FragmentPath"), pulls: slices.Concat(p.list("Requires"), p.list("BindsTo"), p.list("Wants")),
		after: p.list("After"), bound: p.list("BoundBy"), triggers: p.list("TriggeredBy"), upheldBy: p.list("UpheldBy"),
		// What systemd calls UNIT_ATOM_PROPAGATE_STOP.
		dependents: slices.Concat(p.list("RequiredBy"), p.list("RequisiteOf"), p.list("BoundBy"),
			p.list("ConsistsOf"), p.list("PropagatesStopTo")),
	}, nil
}

// properties are those of one unit. Older versions of systemd lack some.
type properties map[string]any

func (p properties) text(name string) string { s, _ := p[name].(string); return s }

func (p properties) flag(name string) bool { b, _ := p[name].(bool); return b }

func (p properties) count(name string) uint64 { n, _ := p[name].(uint64); return n }

func (p properties) list(name string) []string { l, _ := p[name].([]string); return l }

// job tells whether the property Job, a pair of number and path, names one.
func (p properties) job() bool {
	pair, _ := p["Job"].([]any)
	if len(pair) == 0 {
		return false
	}
	number, _ := pair[0].(uint32)
	return number != 0
}
