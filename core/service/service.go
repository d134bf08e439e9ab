// Package service stops systemd units, starts them again exactly as they were, and runs transient units that outlive
// their caller.
//
// It guarantees: a unit that was active is active again, and one that was not is not; while units are stopped, nothing
// that would start them is running; a stopped unit has no process left; login sessions, ssh, the bus and the unit that
// this process runs in are never stopped. The package speaks to systemd over D-Bus and starts no program.
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
	"go.pcc.com/rewind/core/proc"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
)

// Systemd is a connection to the system's systemd. Every method that asks systemd for something and returns an error
// may return these faults: timeout if systemd does not answer, timeout or interrupted if ctx ends, not_root if systemd
// denies access, and service_failed if it answers with any other error. The comments of the methods call them the
// common faults and name only the other ones.
type Systemd struct {
	bus     bus.Bus
	proc    filesystem.Proc
	cgroups string // the directory of the unified hierarchy of control groups; empty: there is none
	own     string // the unit that this process runs in; empty: none
}

// Connect connects to the system's systemd. The connection outlives ctx, so that stopped units can be started after an
// interruption; Close ends it. Faults: unsupported if systemd does not run here, not_root if it denies access, timeout
// if it does not answer, timeout or interrupted if ctx ends.
func Connect(ctx context.Context) (*Systemd, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil, fault.New(fault.Unsupported, "this system does not run systemd, which Rewind needs")
	}
	b, err := bus.Dial(ctx, dbus.Private)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return nil, busFault(ctx, err, "connect to systemd")
	}
	if err != nil {
		return nil, fault.New(fault.Unsupported, "cannot reach systemd: %w", err)
	}
	processes := filesystem.Proc("/proc")
	return On(b, processes, proc.UnifiedHierarchy(proc.CgroupMount), processes.Unit(os.Getpid())), nil
}

// On returns the Systemd at the other end of b. processes is the server's /proc, cgroups the directory of the unified
// hierarchy of control groups (empty: there is none), own the unit that this process runs in (empty: none).
func On(b bus.Bus, processes filesystem.Proc, cgroups, own string) *Systemd {
	return &Systemd{bus: b, proc: processes, cgroups: cgroups, own: own}
}

// Disconnect ends the connection until the next call to systemd. systemd sends every change of every unit to all its
// connections, and devices are units: while volumes change, these are hundreds of messages that nobody needs.
func (s *Systemd) Disconnect() { s.bus.Disconnect() }

// Close ends the connection. Jobs of systemd that are under way go on.
func (s *Systemd) Close() { s.bus.Close() }

// Active reports whether a unit runs, starts or stops: while its ExecStopPost= runs, it is active. A unit that systemd
// does not know is not active.
func (s *Systemd) Active(ctx context.Context, unit string) (bool, error) {
	u, err := s.unit(ctx, unit)
	return err == nil && !u.isDown(), err
}

// ByProcess returns the services that the processes belong to, each once: units can be stopped and started again,
// transient ones cannot be started again. Processes in login sessions, in protected units or in no unit are ignored.
func (s *Systemd) ByProcess(ctx context.Context, pids []int) (units, transient []string, err error) {
	for _, pid := range pids {
		name := s.proc.Unit(pid)
		if !strings.HasSuffix(name, ".service") || s.Protected(name) ||
			slices.Contains(units, name) || slices.Contains(transient, name) {
			continue
		}
		u, err := s.unit(ctx, name)
		switch {
		case err != nil:
			return nil, nil, err
		case u.isTransient:
			transient = append(transient, name)
		default:
			units = append(units, name)
		}
	}
	return units, transient, nil
}

// unit has the properties of a unit that this package uses.
type unit struct {
	name          string // the primary name, also if an alias was asked for
	load          string // loaded, not-found, masked, error, bad-setting
	active        string // active, reloading, inactive, failed, activating, deactivating, maintenance, refreshing
	sub           string // a state of the unit's type: running, exited, listening, auto-restart
	hasJob        bool   // a job is queued or running for it
	conditionsMet bool   // its Condition…= were met when it was last started
	refusesStop   bool   // RefuseManualStop=
	refusesStart  bool   // RefuseManualStart=
	stopsUnneeded bool   // StopWhenUnneeded=
	isTransient   bool   // made by systemd-run(1) or the like; it is gone once it is stopped
	fragmentPath  string // the file that defines it; empty for a mount that systemd found in the kernel's mount table

	lastStart time.Time // the beginning of its last run

	after       []string
	dependents  []string // units that systemd also stops whenever this one is stopped
	boundBy     []string // dependents that systemd stops even if this one goes down by itself, such as a mount
	triggeredBy []string // sockets, timers and paths that start it
	upheldBy    []string // units that start it whenever they find it stopped
	pullsIn     []string // units that its start also starts; systemd may stop them when they are no longer needed
}

// isDown reports whether nothing of the unit runs.
func (u unit) isDown() bool { return u.active == "inactive" || u.active == "failed" }

// isUp reports whether the unit runs, or will run without a further request.
func (u unit) isUp() bool { return !u.isDown() && u.active != "deactivating" }

func (s *Systemd) unit(ctx context.Context, name string) (unit, error) {
	props, err := s.bus.UnitProperties(ctx, name)
	if err != nil {
		return unit{}, busFault(ctx, err, "ask systemd about %s", name)
	}
	p := properties(props)
	return unit{
		name: p.text("Id"), load: p.text("LoadState"), active: p.text("ActiveState"), sub: p.text("SubState"),
		hasJob: p.hasJob(), conditionsMet: p.flag("ConditionResult"),
		refusesStop: p.flag("RefuseManualStop"), refusesStart: p.flag("RefuseManualStart"),
		stopsUnneeded: p.flag("StopWhenUnneeded"), isTransient: p.flag("Transient"),
		lastStart:    time.UnixMicro(int64(p.count("InactiveExitTimestamp"))),
		fragmentPath: p.text("FragmentPath"), pullsIn: slices.Concat(p.list("Requires"), p.list("BindsTo"), p.list("Wants")),
		after: p.list("After"), boundBy: p.list("BoundBy"), triggeredBy: p.list("TriggeredBy"), upheldBy: p.list("UpheldBy"),
		// systemd's name for this relation is UNIT_ATOM_PROPAGATE_STOP.
		dependents: slices.Concat(p.list("RequiredBy"), p.list("RequisiteOf"), p.list("BoundBy"),
			p.list("ConsistsOf"), p.list("PropagatesStopTo")),
	}, nil
}

// properties are the D-Bus properties of one unit. Older versions of systemd lack some of them.
type properties map[string]any

func (p properties) text(name string) string { s, _ := p[name].(string); return s }

func (p properties) flag(name string) bool { b, _ := p[name].(bool); return b }

func (p properties) count(name string) uint64 { n, _ := p[name].(uint64); return n }

func (p properties) list(name string) []string { l, _ := p[name].([]string); return l }

// hasJob reports whether the property Job, a pair of a number and a path, stands for a job.
func (p properties) hasJob() bool {
	pair, _ := p["Job"].([]any)
	if len(pair) == 0 {
		return false
	}
	number, _ := pair[0].(uint32)
	return number != 0
}
