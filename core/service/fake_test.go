package service

import (
	"context"
	"path"
	"slices"
	"sync"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
)

// fakeBus is a systemd that keeps state: jobs change units. It logs the calls in their order.
type fakeBus struct {
	mu       sync.Mutex
	units    map[string]*fakeUnit
	log      []string // "stop a.service", "start b.socket", "reset …"
	watchers map[chan struct{}]string
	settings map[string][]bus.Setting // by the name of the transient unit
}

type fakeUnit struct {
	load, active, sub string
	fragmentPath      string
	deps              map[string][]string // by property, such as RequiredBy
	flags             map[string]bool
	job               string         // the type of the queued job
	typeProperties    map[string]any // properties of the unit's type, such as of Service

	stopHangs    bool   // a stop job goes on until finishStop
	startHangs   bool   // a start job does not end
	losesResults bool   // the results of jobs are lost, as if the connection had ended
	startsTo     string // the state after a start; "active" if empty
	startResult  string // the result of a start job; "done" if empty
	onStop       func()
	results      []chan string
}

func newFakeBus() *fakeBus {
	return &fakeBus{
		units: map[string]*fakeUnit{}, watchers: map[chan struct{}]string{}, settings: map[string][]bus.Setting{},
	}
}

// add adds a unit. deps are pairs of a property and a unit, such as "RequiredBy", "x.service".
func (f *fakeBus) add(name, active string, deps ...string) *fakeUnit {
	u := &fakeUnit{
		load: "loaded", active: active, sub: "sub",
		deps: map[string][]string{}, flags: map[string]bool{"ConditionResult": true},
	}
	for i := 0; i < len(deps); i += 2 {
		u.deps[deps[i]] = append(u.deps[deps[i]], deps[i+1])
	}
	f.units[name] = u
	return u
}

func (f *fakeBus) systemd(t *testing.T) *Systemd {
	t.Helper()
	return &Systemd{bus: f, proc: filesystem.Proc(t.TempDir()), cgroups: t.TempDir(), own: "own.service"}
}

func (f *fakeBus) unitOrNone(name string) *fakeUnit {
	if u := f.units[name]; u != nil {
		return u
	}
	return &fakeUnit{load: "not-found", active: "inactive", sub: "dead"}
}

func (f *fakeBus) UnitProperties(ctx context.Context, name string) (map[string]any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.unitOrNone(name)
	if alias := u.deps["alias of"]; alias != nil {
		name, u = alias[0], f.unitOrNone(alias[0])
	}
	number := uint32(0)
	if u.job != "" {
		number = 7
	}
	properties := map[string]any{
		"Id": name, "LoadState": u.load, "ActiveState": u.active, "SubState": u.sub, "FragmentPath": u.fragmentPath,
		"Job": []any{number, "/job/7"},
	}
	for key, list := range u.deps {
		properties[key] = slices.Clone(list)
	}
	for key, set := range u.flags {
		properties[key] = set
	}
	return properties, ctx.Err()
}

func (f *fakeBus) Property(_ context.Context, name, _, property string) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if value, ok := f.unitOrNone(name).typeProperties[property]; ok {
		return value, nil
	}
	return map[string]any{
		"ControlGroup": "", "Result": "success", "ExecMainCode": int32(0), "ExecMainStatus": int32(0), "StatusText": "",
	}[property], nil
}

func (f *fakeBus) JobType(_ context.Context, name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unitOrNone(name).job, nil
}

func (f *fakeBus) LoadedUnits(_ context.Context, pattern string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.units {
		if ok, _ := path.Match(pattern, name); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// unitFiles returns the matching units that have a unit file, loaded or not.
func (f *fakeBus) UnitFiles(ctx context.Context, patterns ...string) (names []string, err error) {
	for _, pattern := range patterns {
		matching, _ := f.LoadedUnits(ctx, pattern)
		names = append(names, matching...)
	}
	return slices.DeleteFunc(names, func(name string) bool { return f.units[name].fragmentPath == "" }), nil
}

func (f *fakeBus) Stop(_ context.Context, name string) (<-chan string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "stop "+name)
	u := f.units[name]
	if u == nil {
		return nil, dbus.Error{Name: bus.NoSuchUnit}
	}
	result := make(chan string, 1)
	u.results, u.job = append(u.results, result), "stop"
	if !u.isDown() {
		u.active = "deactivating"
	}
	if !u.stopHangs {
		f.endJob(name, "done")
	}
	return result, nil
}

func (u *fakeUnit) isDown() bool { return u.active == "inactive" || u.active == "failed" }

// endJob ends the job of a unit with this result. The caller holds f.mu.
func (f *fakeBus) endJob(name, result string) {
	u := f.units[name]
	if u.job == "stop" && u.active != "failed" {
		u.active = "inactive"
		if u.onStop != nil {
			u.onStop()
		}
	}
	u.job = ""
	for _, r := range u.results {
		if !u.losesResults {
			r <- result
		}
	}
	u.results = nil
	for changed, watched := range f.watchers {
		if watched == name {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// finishStop ends a stop job of a unit with stopHangs.
func (f *fakeBus) finishStop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endJob(name, "done")
}

func (f *fakeBus) Start(_ context.Context, name, mode string) (<-chan string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	verb := map[string]string{bus.UnitOnly: "start ", bus.WithDependencies: "start with all it wants "}[mode]
	f.log = append(f.log, verb+name)
	u := f.units[name]
	if u == nil {
		return nil, dbus.Error{Name: bus.NoSuchUnit, Message: "Unit " + name + " not found."}
	}
	result := make(chan string, 1)
	u.results, u.job, u.active = append(u.results, result), "start", "active"
	if u.startsTo != "" {
		u.active = u.startsTo
	}
	if u.startHangs {
		u.active = "activating"
		return result, nil
	}
	word := u.startResult
	if word == "" {
		word = "done"
	}
	f.endJob(name, word)
	return result, nil
}

func (f *fakeBus) StartTransient(_ context.Context, name string, settings []bus.Setting) (<-chan string, error) {
	if f.units[name] != nil {
		return nil, dbus.Error{Name: bus.UnitExists}
	}
	f.settings[name] = settings
	f.add(name, "active")
	result := make(chan string, 1)
	result <- "done"
	return result, nil
}

func (f *fakeBus) Reload(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "reload")
	return nil
}

func (f *fakeBus) ResetFailed(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "reset "+name)
	return nil
}

func (f *fakeBus) Watch(_ context.Context, name string) (<-chan struct{}, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := make(chan struct{}, 1)
	f.watchers[changed] = name
	return changed, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, changed)
	}, nil
}

func (f *fakeBus) Disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "rest")
}

func (f *fakeBus) Close() {}

// up returns the units that are not down.
func (f *fakeBus) up() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var up []string
	for name, u := range f.units {
		if !u.isDown() {
			up = append(up, name)
		}
	}
	slices.Sort(up)
	return up
}
