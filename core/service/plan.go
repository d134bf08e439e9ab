package service

import (
	"context"
	"slices"
	"sort"

	"go.pcc.com/rewind/core/fault"
)

// Plan says what is to be stopped, and what is to be started afterwards. It is
// kept in the journal, so that the start can be made up for after a power cut.
type Plan struct {
	Named  []string `json:"named"`  // full names, as asked for
	Stop   []string `json:"stop"`   // in order: what starts others first, then each unit before those it needs
	Active []string `json:"active"` // those of Stop that were active, in start order: sockets, services, then timers and paths

	// Pulling are those of Active whose start brings up units that would be
	// stopped as unneeded (StopWhenUnneeded=) if they were started before.
	Pulling []string `json:"pulling,omitempty"`

	// Begun are those of Active that had not finished their start, as a oneshot service that works for an hour: they are
	// started, and nobody waits for the end of that.
	Begun []string `json:"begun,omitempty"`
}

// Plan finds all that has to be stopped for the named units to be down and to
// stay down: what systemd itself would stop with them (Requires=, BindsTo=,
// PartOf= and the like, through any number of steps) and what would start them
// again (sockets, timers, paths). A name without a type is a service. Targets
// are stopped only if named; mounts, slices and devices never.
//
// Errors, all of them at once: bad_arguments for a name that is none, for a
// protected unit, and for one that could not be stopped or started again;
// not_found for a unit there is not; busy if such a unit would have to be stopped
// along with the named ones.
func (s *Systemd) Plan(ctx context.Context, named []string) (Plan, error) {
	c := closure{systemd: s, units: make(map[string]unit), upheld: make(map[string][]string)}
	for _, name := range named {
		if err := c.addNamed(ctx, fullName(name)); err != nil {
			return Plan{}, err
		}
	}
	for i := 0; i < len(c.order); i++ { // grows on the way
		if err := c.follow(ctx, c.units[c.order[i]]); err != nil {
			return Plan{}, err
		}
	}
	if err := fault.All(c.problems...); err != nil {
		return Plan{}, err
	}
	return c.plan(ctx)
}

// closure is a set of units that is being completed.
type closure struct {
	systemd  *Systemd
	named    []string
	order    []string // as they were found
	units    map[string]unit
	upheld   map[string][]string // the units that a unit upholds
	pulling  []string
	problems []error
}

func (c *closure) problem(code fault.Code, format string, a ...any) *fault.Error {
	f := fault.New(code, format, a...)
	c.problems = append(c.problems, f)
	return f
}

// addNamed adds a unit that the user named. The error is for systemd being out
// of reach; what is wrong with the unit is one of the problems.
func (c *closure) addNamed(ctx context.Context, name string) error {
	if why := wrongName(name); why != "" {
		c.problem(fault.BadArguments, "%q %s", name, why)
		return nil
	}
	u, err := c.systemd.unit(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case c.systemd.Protected(name) || c.systemd.Protected(u.name):
		c.problem(fault.BadArguments, "%s is never stopped", name).
			WithHint("leave it out of services: without it nobody could log in, or the rollback itself would end")
		return nil
	case u.load == "masked":
		// Runs on: reported below. Does not run: nothing to stop.
	case u.load != "loaded":
		c.problem(fault.NotFound, "there is no unit %s (%s)", name, u.load).With("units", []string{name}).
			WithHint("systemctl list-units --all names those there are")
		return nil
	}
	c.named = append(c.named, u.name)
	c.check(fault.BadArguments, u, "")
	c.add(u)
	return nil
}

func (c *closure) add(u unit) {
	if _, known := c.units[u.name]; !known {
		c.units[u.name] = u
		c.order = append(c.order, u.name)
	}
}

// check refuses a running unit that could not be stopped or not be started again.
func (c *closure) check(code fault.Code, u unit, why string) {
	if u.down() {
		return
	}
	switch {
	case u.noStop:
		c.problem(code, "%s cannot be stopped: it has RefuseManualStop=%s", u.name, why)
	case u.noStart:
		c.problem(code, "%s could not be started again: it has RefuseManualStart=%s", u.name, why)
	case u.transient:
		c.problem(code, "%s could not be started again: it is transient, made by systemd-run or the like, and gone once it is stopped%s", u.name, why).
			WithHint("stop it yourself first")
	case u.load != "loaded":
		c.problem(code, "%s could not be started again: its unit file is %s%s", u.name, u.load, why).
			WithHint("stop it yourself first, or repair its unit file and run systemctl daemon-reload")
	}
}

// follow adds what has to be stopped because of u.
func (c *closure) follow(ctx context.Context, u unit) error {
	for _, name := range u.dependents {
		if err := c.addFound(ctx, name, "it depends on "+u.name); err != nil {
			return err
		}
	}
	for _, name := range u.triggers {
		if err := c.addFound(ctx, name, "it would start "+u.name+" again"); err != nil {
			return err
		}
	}
	for _, name := range u.pulls {
		if err := c.addUnneeded(ctx, name, u.name); err != nil {
			return err
		}
	}
	for _, name := range u.upheldBy {
		if err := c.addUpholder(ctx, name, u.name); err != nil {
			return err
		}
	}
	return nil
}

// addFound adds a unit that the user did not name.
func (c *closure) addFound(ctx context.Context, name, because string) error {
	if _, known := c.units[name]; known || !stops(name) {
		return nil
	}
	u, err := c.systemd.unit(ctx, name)
	if err != nil {
		return err
	}
	if c.systemd.Protected(u.name) {
		if !u.down() {
			c.problem(fault.Busy, "%s would have to be stopped, too, which is never done: %s", u.name, because)
		}
		return nil
	}
	c.check(fault.Busy, u, ", and would have to be stopped, too: "+because)
	c.add(u)
	return nil
}

// addUnneeded adds a unit that systemd stops by itself once nobody needs it
// (StopWhenUnneeded=): it is to be up again with those that need it.
func (c *closure) addUnneeded(ctx context.Context, name, neededBy string) error {
	if !stops(name) {
		return nil
	}
	u, err := c.systemd.unit(ctx, name)
	if err != nil || !u.unneeded || u.down() {
		return err
	}
	c.pulling = append(c.pulling, neededBy)
	return c.addFound(ctx, name, "systemd stops it when "+neededBy+" no longer needs it")
}

// addUpholder adds a unit with Upholds=, which starts another one whenever it
// finds it down. A target that does so cannot be stopped for that, as everything
// else it holds together would go with it.
func (c *closure) addUpholder(ctx context.Context, name, upheld string) error {
	if kindOf(name) != "target" || slices.Contains(c.named, name) {
		c.upheld[name] = append(c.upheld[name], upheld)
		return c.addFound(ctx, name, "it upholds "+upheld)
	}
	u, err := c.systemd.unit(ctx, name)
	if err != nil || u.down() {
		return err
	}
	c.problem(fault.Busy, "%s would be started again at once: %s upholds it (Upholds=)", upheld, name).
		WithHint("stop %s first if that does no harm, or take the Upholds= away", name)
	return nil
}

// plan puts the complete closure into order.
func (c *closure) plan(ctx context.Context) (Plan, error) {
	p := Plan{Named: c.named, Stop: c.stopOrder()}
	for _, name := range slices.Backward(p.Stop) {
		up, err := c.wasUp(ctx, c.units[name])
		if err != nil {
			return Plan{}, err
		}
		if up {
			p.Active = append(p.Active, name)
		}
		if u := c.units[name]; u.active == "activating" && u.sub != "auto-restart" {
			p.Begun = append(p.Begun, name)
		}
	}
	sort.SliceStable(p.Active, func(i, j int) bool { return c.startRank(p.Active[i]) < c.startRank(p.Active[j]) })
	for _, name := range p.Active {
		if slices.Contains(c.pulling, name) {
			p.Pulling = append(p.Pulling, name)
		}
	}
	return p, nil
}

// wasUp tells whether the unit runs or was asked to: one that is just being
// restarted is down for a moment.
func (c *closure) wasUp(ctx context.Context, u unit) (bool, error) {
	if u.up() || !u.job {
		return u.up(), nil
	}
	job, err := c.systemd.bus.jobType(ctx, u.name)
	if err != nil {
		return false, busFault(ctx, err, "ask systemd about %s", u.name)
	}
	return job == "start" || job == "restart", nil
}

// startRank orders starts. A socket refuses to start after its service, which
// needs the socket's descriptors; a unit that is stopped while unneeded comes
// after whoever needs it; a timer or path may start services at once, which
// should find everything up.
func (c *closure) startRank(name string) int {
	switch kindOf(name) {
	case "socket", "automount":
		return 0
	case "timer", "path":
		return 3
	}
	if c.units[name].unneeded {
		return 2
	}
	return 1
}

// stopOrder puts triggers first, then every unit before those it was started
// after. systemd runs a job as soon as it has it, before the next one reaches
// it, and orders only jobs that wait at the same time: in any other order a
// database would go before its users, or a path unit would start it again.
func (c *closure) stopOrder() []string {
	var started []string // in the order of a start
	seen := make(map[string]bool)
	var visit func(name string)
	visit = func(name string) {
		if _, ours := c.units[name]; !ours || seen[name] {
			return
		}
		seen[name] = true
		for _, earlier := range slices.Concat(c.units[name].after, c.upheld[name]) {
			visit(earlier)
		}
		started = append(started, name)
	}
	for _, name := range c.order {
		visit(name)
	}
	slices.Reverse(started)
	services := slices.DeleteFunc(slices.Clone(started), trigger)
	return append(slices.DeleteFunc(started, func(name string) bool { return !trigger(name) }), services...)
}
