package servicetest

import (
	"slices"
	"strings"
)

// job is what systemd is to do with a unit. A unit has one job at a time: an equal one joins it, another one takes its
// place.
type job struct {
	kind    string        // start or stop
	running bool          // it waits for no other job any more
	results []chan string // of those who wait for its end
}

func (u *Unit) jobType() string {
	if u.job != nil {
		return u.job.kind
	}
	return u.Job
}

// AdminStart starts a unit as `systemctl start` does, with all that it requires and wants. It does not wait for the end
// of the start. An error says that a unit which it needs does not exist.
func (f *Fake) AdminStart(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start(name, true, nil)
}

// AdminStop stops a unit as `systemctl stop` does, with the units that systemd stops with it, such as those that
// require it. A unit that does not exist is down.
func (f *Fake) AdminStop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.stopped(name, nil) {
		f.queue(u, "stop", nil)
	}
	f.runJobs()
}

// stopped adds a unit to units, and those that a stop of it also stops: what it is to systemd is
// UNIT_ATOM_PROPAGATE_STOP.
func (f *Fake) stopped(name string, units []*Unit) []*Unit {
	u := f.units[name]
	if u == nil || slices.Contains(units, u) || u.isDown() && u.job == nil {
		return units
	}
	units = append(units, u)
	for _, property := range []string{"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"} {
		for _, other := range f.related(u, property) {
			units = f.stopped(other, units)
		}
	}
	return units
}

// FinishStop ends a stop of a unit with StopHangs.
func (f *Fake) FinishStop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.mustFind(name)
	f.endStop(u, u.job)
	f.runJobs()
}

// start queues the start of a unit, and of all that it requires and wants if pulls is set, and runs what can run.
// result gets the result of the unit's own job; it may be nil.
func (f *Fake) start(name string, pulls bool, result chan string) error {
	u := f.load(name)
	if u == nil || u.Load != "loaded" {
		return noSuchUnit(name)
	}
	pulled, starts := map[string]*Unit{}, map[string]*Unit{}
	if pulls {
		if err := f.pull(name, pulled); err != nil {
			return err
		}
		f.toStart(u, pulled, starts)
	}
	f.queue(u, "start", result)
	for _, other := range starts {
		f.queue(other, "start", nil)
	}
	f.runJobs()
	return nil
}

// queue gives a unit a job. A job of the other kind is canceled.
func (f *Fake) queue(u *Unit, kind string, result chan string) {
	if u.job != nil && u.job.kind != kind {
		f.endJob(u, "canceled")
	}
	if u.job == nil {
		u.job = &job{kind: kind}
	}
	if result != nil {
		u.job.results = append(u.job.results, result)
	}
}

// runJobs runs all jobs that wait for no other, by the names of the units. The caller holds f.mu, which is released
// while a function of a unit is at work; that function may have jobs run, too.
func (f *Fake) runJobs() {
	powerOns := f.powerOns
	for u := f.runnable(); u != nil && f.powerOns == powerOns; u = f.runnable() {
		u.job.running = true
		if u.job.kind == "start" {
			f.runStart(u)
		} else {
			f.runStop(u)
		}
	}
	f.collect()
}

func (f *Fake) runnable() *Unit {
	for _, u := range f.all() {
		if u.job != nil && !u.job.running && !u.busy && !f.waits(u) {
			return u
		}
	}
	return nil
}

// waits reports whether the job of a unit waits for another job. A start waits for every job of the units that it is
// ordered after. Of two units that are stopped, the one that was started later goes first, and a start waits for the
// stop of a unit that is ordered after it (systemd, src/core/job.c, job_compare).
func (f *Fake) waits(u *Unit) bool {
	for _, other := range f.units {
		if other == u || other.job == nil {
			continue
		}
		if u.job.kind == "start" && f.isAfter(u, other) || other.job.kind == "stop" && f.isAfter(other, u) {
			return true
		}
	}
	return false
}

// runStart runs the start job of a unit.
func (f *Fake) runStart(u *Unit) {
	j := u.job
	if u.isUp() {
		f.endJob(u, "done")
		return
	}
	f.enter(u, "activating")
	if u.StartHangs {
		return
	}
	var err error
	program := f.program(u)
	if !f.call(u, func() { err = program() }) {
		return
	}
	state, result := orElse(u.StartsTo, u.file.afterStart()), orElse(u.StartResult, "done")
	if u.runFailed = err != nil; u.runFailed {
		state, result = "failed", "failed"
	}
	f.enter(u, state)
	if u.job == j { // else a stop has taken its place
		f.endJob(u, result)
	}
}

// program returns what a start of a unit runs.
func (f *Fake) program(u *Unit) func() error {
	argv, exec := strings.Fields(u.file.settings["ExecStart"]), f.exec
	switch {
	case u.OnStart != nil:
		return u.OnStart
	case len(argv) == 0 || exec == nil:
		return func() error { return nil }
	}
	return func() error { return exec(u.name, argv) }
}

// afterStart is the state in which a start leaves a unit with this file.
func (file *unitFile) afterStart() string {
	if file.settings["Type"] == "oneshot" && file.settings["RemainAfterExit"] != "yes" {
		return "inactive"
	}
	return "active"
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// call calls a function of a unit without the lock. It reports false if the power failed meanwhile.
func (f *Fake) call(u *Unit, function func()) bool {
	powerOns := f.powerOns
	u.busy = true
	func() {
		f.mu.Unlock()
		defer f.mu.Lock()
		function()
	}()
	if f.powerOns != powerOns {
		return false
	}
	u.busy = false
	return true
}

// runStop runs the stop job of a unit.
func (f *Fake) runStop(u *Unit) {
	j := u.job
	if u.isDown() {
		f.endJob(u, "done")
		return
	}
	f.enter(u, "deactivating")
	if u.StopHangs {
		u.busy = true
		return
	}
	if u.OnStop == nil || f.call(u, u.OnStop) {
		f.endStop(u, j)
	}
}

// endStop ends a stop, and its job unless a start has taken its place.
func (f *Fake) endStop(u *Unit, j *job) {
	u.busy, u.runFailed = false, false
	f.enter(u, "inactive")
	if j != nil && u.job == j && j.kind == "stop" {
		f.endJob(u, "done")
	}
}

// enter brings a unit into a state.
func (f *Fake) enter(u *Unit, state string) {
	u.Active = state
	f.notify(u)
}

// endJob ends the job of a unit. If it was a start that failed, the starts of units that need it fail too.
func (f *Fake) endJob(u *Unit, result string) {
	j := u.job
	u.job, u.result = nil, result
	for _, waiting := range j.results {
		if !u.LosesResults {
			waiting <- result
		}
	}
	f.notify(u)
	if j.kind == "stop" || result == "done" || result == "canceled" {
		return
	}
	for _, other := range f.all() {
		if other.job != nil && other.job.kind == "start" && has(f.needs(other), u.name) {
			f.endJob(other, "dependency")
		}
	}
}
