package service

import (
	"context"
	"path"
	"slices"
	"sync"
	"testing"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service/dbus"
)

// fake is a systemd that keeps state: jobs change units, and what was asked of
// it is written down in order.
type fake struct {
	mu       sync.Mutex
	units    map[string]*fakeUnit
	log      []string // "stop a.service", "start b.socket", "reset …"
	watchers map[chan struct{}]string
	sent     map[string][]property // transient units
}

type fakeUnit struct {
	load, active, sub string
	file              string
	deps              map[string][]string // RequiredBy and so on
	flags             map[string]bool
	job               string         // queued: its type
	last              map[string]any // properties of its type

	slow     bool   // a stop goes on until finish
	starting bool   // so does a start
	deaf     bool   // job results are lost, as with the connection
	startsTo string // the state after a start; "active" if empty
	result   string // of its start job; "done" if empty
	onStop   func()
	results  []chan string
}

func newFake() *fake {
	return &fake{units: map[string]*fakeUnit{}, watchers: map[chan struct{}]string{}, sent: map[string][]property{}}
}

// add makes a unit; pairs of words are dependencies: "RequiredBy", "x.service".
func (f *fake) add(name, active string, deps ...string) *fakeUnit {
	u := &fakeUnit{load: "loaded", active: active, sub: "sub", deps: map[string][]string{}, flags: map[string]bool{"ConditionResult": true}}
	for i := 0; i < len(deps); i += 2 {
		u.deps[deps[i]] = append(u.deps[deps[i]], deps[i+1])
	}
	f.units[name] = u
	return u
}

func (f *fake) systemd(t *testing.T) *Systemd {
	t.Helper()
	return &Systemd{bus: f, proc: filesystem.Proc(t.TempDir()), cgroups: t.TempDir(), own: "own.service"}
}

func (f *fake) get(name string) *fakeUnit {
	if u := f.units[name]; u != nil {
		return u
	}
	return &fakeUnit{load: "not-found", active: "inactive", sub: "dead"}
}

func (f *fake) unit(ctx context.Context, name string) (map[string]any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.get(name)
	if alias := u.deps["alias of"]; alias != nil {
		name, u = alias[0], f.get(alias[0])
	}
	number := uint32(0)
	if u.job != "" {
		number = 7
	}
	properties := map[string]any{
		"Id": name, "LoadState": u.load, "ActiveState": u.active, "SubState": u.sub, "FragmentPath": u.file,
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

func (f *fake) property(_ context.Context, name, _, property string) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if value, ok := f.get(name).last[property]; ok {
		return value, nil
	}
	return map[string]any{
		"ControlGroup": "", "Result": "success", "ExecMainCode": int32(0), "ExecMainStatus": int32(0), "StatusText": "",
	}[property], nil
}

func (f *fake) jobType(_ context.Context, name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(name).job, nil
}

func (f *fake) loaded(_ context.Context, pattern string) ([]string, error) {
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

// filed are the units that have a file, loaded or not.
func (f *fake) filed(ctx context.Context, patterns ...string) (names []string, err error) {
	for _, pattern := range patterns {
		matching, _ := f.loaded(ctx, pattern)
		names = append(names, matching...)
	}
	return slices.DeleteFunc(names, func(name string) bool { return f.units[name].file == "" }), nil
}

func (f *fake) stop(_ context.Context, name string) (<-chan string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "stop "+name)
	u := f.units[name]
	if u == nil {
		return nil, dbus.Error{Name: noSuchUnit}
	}
	result := make(chan string, 1)
	u.results, u.job = append(u.results, result), "stop"
	if !u.down() {
		u.active = "deactivating"
	}
	if !u.slow {
		f.ended(name, "done")
	}
	return result, nil
}

func (u *fakeUnit) down() bool { return u.active == "inactive" || u.active == "failed" }

// ended ends the job of a unit. The caller has the lock.
func (f *fake) ended(name, result string) {
	u := f.units[name]
	if u.job == "stop" && u.active != "failed" {
		u.active = "inactive"
		if u.onStop != nil {
			u.onStop()
		}
	}
	u.job = ""
	for _, r := range u.results {
		if !u.deaf {
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

// finish ends a slow stop.
func (f *fake) finish(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended(name, "done")
}

func (f *fake) start(_ context.Context, name, mode string) (<-chan string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	verb := map[string]string{alone: "start ", usual: "start with all it wants "}[mode]
	f.log = append(f.log, verb+name)
	u := f.units[name]
	if u == nil {
		return nil, dbus.Error{Name: noSuchUnit, Message: "Unit " + name + " not found."}
	}
	result := make(chan string, 1)
	u.results, u.job, u.active = append(u.results, result), "start", "active"
	if u.startsTo != "" {
		u.active = u.startsTo
	}
	if u.starting {
		u.active = "activating"
		return result, nil
	}
	word := u.result
	if word == "" {
		word = "done"
	}
	f.ended(name, word)
	return result, nil
}

func (f *fake) startTransient(_ context.Context, name string, properties []property) (<-chan string, error) {
	if f.units[name] != nil {
		return nil, dbus.Error{Name: unitExists}
	}
	f.sent[name] = properties
	f.add(name, "active")
	result := make(chan string, 1)
	result <- "done"
	return result, nil
}

func (f *fake) reload(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "reload")
	return nil
}

func (f *fake) resetFailed(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "reset "+name)
	return nil
}

func (f *fake) watch(_ context.Context, name string) (<-chan struct{}, func(), error) {
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

func (f *fake) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "rest")
}

func (f *fake) close() {}

// states are the units that are up.
func (f *fake) up() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var up []string
	for name, u := range f.units {
		if !u.down() {
			up = append(up, name)
		}
	}
	slices.Sort(up)
	return up
}
