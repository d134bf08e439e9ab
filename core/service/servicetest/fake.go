// Package servicetest is a systemd without a server, for tests. A Fake keeps units and jobs in memory and answers the
// calls of package bus as systemd does. So what is built on package service can be tested at every step, also in a
// bubble of testing/synctest: the fake has no clock, starts no goroutine and reads no files but those of the directory
// of units that it is given.
//
// What the fake claims to share with systemd is not held against a real one, except for what lab_test.go of package
// service tests there. It leaves out much: units that restart by themselves, sockets, timers and paths that start
// others, Conflicts=, Upholds=, StopWhenUnneeded=, and the stop of a unit with BindsTo= when the other unit goes away.
package servicetest

import (
	"maps"
	"slices"
	"sync"

	"go.pcc.com/rewind/core/service/bus"
)

// Fake is a systemd in memory. It outlives the processes that use it: each has a connection of its own (Connect). It is
// safe for concurrent use, and whenever it has a choice it goes by the names of units.
type Fake struct {
	mu       sync.Mutex // not held while a function of a test is called
	units    map[string]*Unit
	sorted   []string // the names of units; nil: to be sorted again
	log      []string
	watchers map[chan struct{}]string
	settings map[string][]bus.Setting // by the name of the transient unit
	powerOns int                      // what began before the last PowerOff is of no account any more
	dir      string                   // the directory of units; empty: none
	exec     func(unit string, argv []string) error
}

// Unit is a unit of a Fake. Its fields may be set directly until somebody else uses the fake; later by Fake.Change.
type Unit struct {
	Load, Active, Sub string              // LoadState, ActiveState and SubState
	FragmentPath      string              // the file that defines it; empty for a mount that nothing defines
	Deps              map[string][]string // by property, such as RequiredBy; "alias of" has the unit's primary name
	Flags             map[string]bool     // by property, such as Transient
	Properties        map[string]any      // properties of the unit's type, such as ControlGroup of Service
	Job               string              // the type of a job that it has from the beginning and that does not end

	// OnStart and OnStop do what the unit's program does. They are called without a lock by whoever had the job run, who
	// waits for them: they must return. If OnStart returns an error, the start fails as if the program had ended with
	// status 1.
	OnStart func() error
	OnStop  func()

	StopHangs    bool   // a stop goes on until FinishStop
	StartHangs   bool   // a start does not end
	LosesResults bool   // the results of jobs are lost, as if the connection had ended
	StartsTo     string // the state after a start; if empty, "active", or what the unit's file implies
	StartResult  string // the result of a start job; "done" if empty

	Enabled    bool // Boot starts it: an enabled service, or a mount of fstab without noauto
	NoFail     bool // the option nofail of a mount in fstab
	NoDefaults bool // DefaultDependencies=no

	name        string
	isAdded     bool // by a test, or a target of Boot: no file must define it
	isTransient bool // it is gone once it is down
	busy        bool // OnStart or OnStop is at work, or a stop hangs
	job         *job
	result      string // of its last job
	runFailed   bool   // its last run failed
	file        unitFile
	unloaded    bool // systemd has unloaded it
}

// New returns a systemd without units.
func New() *Fake {
	return &Fake{units: map[string]*Unit{}, watchers: map[chan struct{}]string{}, settings: map[string][]bus.Setting{}}
}

// Add adds a unit that something outside of the fake's directory of units defines, such as fstab or a package. deps are
// pairs of a property and a unit, such as "RequiredBy", "x.service". One direction is enough: the other unit has the
// opposite property.
func (f *Fake) Add(name, active string, deps ...string) *Unit {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.add(name, active, deps...)
	u.isAdded = true
	return u
}

func (f *Fake) add(name, active string, deps ...string) *Unit {
	u := &Unit{
		Load: "loaded", Active: active, Sub: "sub", name: name,
		Deps: map[string][]string{}, Flags: map[string]bool{"ConditionResult": true},
	}
	for i := 0; i < len(deps); i += 2 {
		u.Deps[deps[i]] = append(u.Deps[deps[i]], deps[i+1])
	}
	f.units[name], f.sorted = u, nil
	return u
}

func (f *Fake) remove(name string) {
	delete(f.units, name)
	f.sorted = nil
}

// Change changes a unit as if it changed by itself. What waits for it goes on.
func (f *Fake) Change(name string, change func(u *Unit)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.mustFind(name)
	change(u)
	f.notify(u)
	f.runJobs()
}

// mustFind returns a unit. It panics if there is none, because then the test is wrong.
func (f *Fake) mustFind(name string) *Unit {
	if u := f.units[name]; u != nil {
		return u
	}
	panic("servicetest: no unit " + name)
}

// State returns the ActiveState of a unit. A unit that does not exist is inactive.
func (f *Fake) State(name string) string { return f.look(name).Active }

// Job returns the type of the job of a unit: start or stop; empty: none.
func (f *Fake) Job(name string) string {
	u := f.look(name)
	return u.jobType()
}

// Result returns the result of the last job of a unit: done, failed, dependency or canceled; empty: it had none.
func (f *Fake) Result(name string) string { return f.look(name).result }

// look returns a copy of a unit as it is now, or of one that does not exist.
func (f *Fake) look(name string) Unit {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.units[name]; u != nil {
		return *u
	}
	return *missing()
}

// missing returns what systemd shows of a unit that does not exist.
func missing() *Unit { return &Unit{Load: "not-found", Active: "inactive", Sub: "dead"} }

// Up returns the units that are not down, sorted.
func (f *Fake) Up() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var up []string
	for name, u := range f.all() {
		if !u.isDown() {
			up = append(up, name)
		}
	}
	return up
}

// all ranges over the loaded units in the order of their names.
func (f *Fake) all() func(yield func(string, *Unit) bool) {
	return func(yield func(string, *Unit) bool) {
		if f.sorted == nil {
			f.sorted = slices.Sorted(maps.Keys(f.units))
		}
		for _, name := range f.sorted {
			if u := f.units[name]; u != nil && !u.unloaded && !yield(name, u) {
				return
			}
		}
	}
}

// Log returns the calls that change something, of all connections, with the texts that Connect describes. A Disconnect
// is among them.
func (f *Fake) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Settings returns the settings that a transient unit was started with.
func (f *Fake) Settings(name string) []bus.Setting {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settings[name]
}

// Watchers returns how many callers watch a unit now.
func (f *Fake) Watchers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers)
}

// notify signals the watchers of a unit. The caller holds f.mu.
func (f *Fake) notify(u *Unit) {
	for changed, watched := range f.watchers {
		if watched != u.name {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // it has not yet received the last signal
		}
	}
}

// isDown reports whether nothing of the unit runs.
func (u *Unit) isDown() bool { return u.Active == "inactive" || u.Active == "failed" }

// isUp reports whether the unit has started.
func (u *Unit) isUp() bool {
	return u.Active == "active" || u.Active == "reloading" || u.Active == "refreshing"
}
