package service

import (
	"context"
	"slices"
	"sort"

	"go.pcc.com/rewind/core/fault"
)

// Plan says which units are to be stopped, and which are to be started afterwards. It is kept in the journal, so that
// they can be started after a power cut.
type Plan struct {
	Named  []string `json:"named"`  // full names of the units that the user named
	Stop   []string `json:"stop"`   // in stop order: first what starts others, then each unit before those that it needs
	Active []string `json:"active"` // units of Stop that were active, in start order

	// Pulling are the units of Active whose start also starts units with StopWhenUnneeded=. systemd would stop those again
	// if they were started before the units that need them.
	Pulling []string `json:"pulling,omitempty"`

	// Begun are the units of Active that had not finished their start, such as a oneshot service that works for an hour.
	// They are started again, but nobody waits for the end of their start.
	Begun []string `json:"begun,omitempty"`
}

// Plan finds all units that must be stopped so that the named units are down and stay down: those that systemd itself
// would stop with them (Requires=, BindsTo=, PartOf= and the like, through any number of steps), and those that would
// start them again (sockets, timers, paths). A name without a type is a service. Targets are stopped only if they are
// named; mounts, slices and devices never.
//
// Besides the common faults Plan returns these, all of them in one error: bad_arguments for a malformed name, for a
// protected unit, and for a named unit that could not be stopped or started again; not_found for a unit that does not
// exist; busy if a protected unit, or one that could not be stopped or started again, would have to be stopped with the
// named ones.
func (s *Systemd) Plan(ctx context.Context, named []string) (Plan, error) {
	set := stopSet{systemd: s, units: make(map[string]unit), upholds: make(map[string][]string)}
	for _, name := range named {
		if err := set.addNamed(ctx, fullName(name)); err != nil {
			return Plan{}, err
		}
	}
	for i := 0; i < len(set.order); i++ { // the order grows during the loop
		if err := set.addRelated(ctx, set.units[set.order[i]]); err != nil {
			return Plan{}, err
		}
	}
	if err := fault.All(set.problems...); err != nil {
		return Plan{}, err
	}
	return set.ordered(ctx)
}

// stopSet is the set of units of a plan. It grows until it has every unit that must be stopped.
type stopSet struct {
	systemd  *Systemd
	named    []string
	order    []string // the names of units, in the order in which they were found
	units    map[string]unit
	upholds  map[string][]string // by unit: the units that it upholds (Upholds=)
	pulling  []string            // see Plan.Pulling
	problems []error
}

func (set *stopSet) addProblem(code fault.Code, format string, a ...any) *fault.Error {
	f := fault.New(code, format, a...)
	set.problems = append(set.problems, f)
	return f
}

// addNamed adds a unit that the user named. It returns an error only if systemd cannot be asked; what is wrong with the
// unit is added to the problems.
func (set *stopSet) addNamed(ctx context.Context, name string) error {
	if problem := nameProblem(name); problem != "" {
		set.addProblem(fault.BadArguments, "%q %s", name, problem)
		return nil
	}
	u, err := set.systemd.unit(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case set.systemd.Protected(name) || set.systemd.Protected(u.name):
		set.addProblem(fault.BadArguments, "%s is never stopped", name).
			WithHint("leave it out of services: without it nobody could log in, or the rollback itself would end")
		return nil
	case u.load == "masked":
		// If it runs, checkRestartable reports it below. If not, there is nothing to stop.
	case u.load != "loaded":
		set.addProblem(fault.NotFound, "there is no unit %s (%s)", name, u.load).With("units", []string{name}).
			WithHint("systemctl list-units --all names those there are")
		return nil
	}
	set.named = append(set.named, u.name)
	set.checkRestartable(fault.BadArguments, u, "")
	set.add(u)
	return nil
}

func (set *stopSet) add(u unit) {
	if _, known := set.units[u.name]; !known {
		set.units[u.name] = u
		set.order = append(set.order, u.name)
	}
}

// checkRestartable adds a problem if the unit runs and could not be stopped, or could not be started again. reason is
// appended to the message.
func (set *stopSet) checkRestartable(code fault.Code, u unit, reason string) {
	if u.isDown() {
		return
	}
	switch {
	case u.refusesStop:
		set.addProblem(code, "%s cannot be stopped: it has RefuseManualStop=%s", u.name, reason)
	case u.refusesStart:
		set.addProblem(code, "%s could not be started again: it has RefuseManualStart=%s", u.name, reason)
	case u.isTransient:
		set.addProblem(code, "%s could not be started again: it is transient, made by systemd-run or the like, "+
			"and gone once it is stopped%s", u.name, reason).
			WithHint("stop it yourself first")
	case u.load != "loaded":
		set.addProblem(code, "%s could not be started again: its unit file is %s%s", u.name, u.load, reason).
			WithHint("stop it yourself first, or repair its unit file and run systemctl daemon-reload")
	}
}

// addRelated adds the units that must be stopped because u is stopped.
func (set *stopSet) addRelated(ctx context.Context, u unit) error {
	for _, name := range u.dependents {
		if err := set.addUnnamed(ctx, name, "it depends on "+u.name); err != nil {
			return err
		}
	}
	for _, name := range u.triggeredBy {
		if err := set.addUnnamed(ctx, name, "it would start "+u.name+" again"); err != nil {
			return err
		}
	}
	for _, name := range u.pullsIn {
		if err := set.addUnneeded(ctx, name, u.name); err != nil {
			return err
		}
	}
	for _, name := range u.upheldBy {
		if err := set.addUpholder(ctx, name, u.name); err != nil {
			return err
		}
	}
	return nil
}

// addUnnamed adds a unit that the user did not name. reason says why it must be stopped.
func (set *stopSet) addUnnamed(ctx context.Context, name, reason string) error {
	if _, known := set.units[name]; known || !mayStopUnnamed(name) {
		return nil
	}
	u, err := set.systemd.unit(ctx, name)
	if err != nil {
		return err
	}
	if set.systemd.Protected(u.name) {
		if !u.isDown() {
			set.addProblem(fault.Busy, "%s would have to be stopped, too, which is never done: %s", u.name, reason)
		}
		return nil
	}
	set.checkRestartable(fault.Busy, u, ", and would have to be stopped, too: "+reason)
	set.add(u)
	return nil
}

// addUnneeded adds a unit that systemd stops by itself as soon as no other unit needs it (StopWhenUnneeded=). It must
// be started again with the unit that needs it.
func (set *stopSet) addUnneeded(ctx context.Context, name, neededBy string) error {
	if !mayStopUnnamed(name) {
		return nil
	}
	u, err := set.systemd.unit(ctx, name)
	if err != nil || !u.stopsUnneeded || u.isDown() {
		return err
	}
	set.pulling = append(set.pulling, neededBy)
	return set.addUnnamed(ctx, name, "systemd stops it when "+neededBy+" no longer needs it")
}

// addUpholder adds a unit with Upholds=, which starts the upheld unit whenever that is down. A target that upholds a
// unit is not stopped for this, because everything else that belongs to it would be stopped too.
func (set *stopSet) addUpholder(ctx context.Context, name, upheld string) error {
	if typeOf(name) != "target" || slices.Contains(set.named, name) {
		set.upholds[name] = append(set.upholds[name], upheld)
		return set.addUnnamed(ctx, name, "it upholds "+upheld)
	}
	u, err := set.systemd.unit(ctx, name)
	if err != nil || u.isDown() {
		return err
	}
	set.addProblem(fault.Busy, "%s would be started again at once: %s upholds it (Upholds=)", upheld, name).
		WithHint("stop %s first if that does no harm, or take the Upholds= away", name)
	return nil
}

// ordered returns the plan for the complete set.
func (set *stopSet) ordered(ctx context.Context) (Plan, error) {
	p := Plan{Named: set.named, Stop: set.stopOrder()}
	for _, name := range slices.Backward(p.Stop) {
		isUp, err := set.shouldBeUp(ctx, set.units[name])
		if err != nil {
			return Plan{}, err
		}
		if isUp {
			p.Active = append(p.Active, name)
		}
		if u := set.units[name]; u.active == "activating" && u.sub != "auto-restart" {
			p.Begun = append(p.Begun, name)
		}
	}
	sort.SliceStable(p.Active, func(i, j int) bool { return set.startRank(p.Active[i]) < set.startRank(p.Active[j]) })
	for _, name := range p.Active {
		if slices.Contains(set.pulling, name) {
			p.Pulling = append(p.Pulling, name)
		}
	}
	return p, nil
}

// shouldBeUp reports whether the unit runs or was asked to run: a unit that is being restarted is down for a moment.
func (set *stopSet) shouldBeUp(ctx context.Context, u unit) (bool, error) {
	if u.isUp() || !u.hasJob {
		return u.isUp(), nil
	}
	job, err := set.systemd.bus.JobType(ctx, u.name)
	if err != nil {
		return false, busFault(ctx, err, "ask systemd about %s", u.name)
	}
	return job == "start" || job == "restart", nil
}

// startRank orders the starts. A socket refuses to start after its service, and the service needs the socket's
// descriptors. A unit with StopWhenUnneeded= comes after the units that need it. A timer or path may start services at
// once, which should find everything up.
func (set *stopSet) startRank(name string) int {
	switch typeOf(name) {
	case "socket", "automount":
		return 0
	case "timer", "path":
		return 3
	}
	if set.units[name].stopsUnneeded {
		return 2
	}
	return 1
}

// stopOrder puts triggers first, and then every unit before the units that it was started after. systemd runs a job as
// soon as the job is queued, before the next one arrives, and orders only jobs that wait at the same time. In any other
// order a database would stop before its users, or a path unit would start it again.
func (set *stopSet) stopOrder() []string {
	var startOrder []string // in the order of a start
	seen := make(map[string]bool)
	var visit func(name string)
	visit = func(name string) {
		if _, inSet := set.units[name]; !inSet || seen[name] {
			return
		}
		seen[name] = true
		for _, earlier := range slices.Concat(set.units[name].after, set.upholds[name]) {
			visit(earlier)
		}
		startOrder = append(startOrder, name)
	}
	for _, name := range set.order {
		visit(name)
	}
	slices.Reverse(startOrder)
	services := slices.DeleteFunc(slices.Clone(startOrder), isTrigger)
	return append(slices.DeleteFunc(startOrder, func(name string) bool { return !isTrigger(name) }), services...)
}
