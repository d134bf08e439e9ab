package servicetest

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
)

// conn is the connection of one process.
type conn struct {
	f        *Fake
	before   func(call string, changes bool) error
	powerOns int
}

// Connect returns a connection for one process. before is called before each call takes effect, with a text such as
// "start web.service", "start web.service with dependencies", "stop web.service", "transient rewind-hold-1.service",
// "reset web.service", "reload", or "ask web.service" and "ask *.mount *.swap", which change nothing. If before returns
// an error, the call returns it and has no effect. before is called without a lock: it may end its goroutine or act on
// the fake. It may be nil. After a PowerOff the connection is lost.
func (f *Fake) Connect(before func(call string, changes bool) error) bus.Bus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &conn{f: f, before: before, powerOns: f.powerOns}
}

// ask begins a call that changes nothing. If it returns no error, f.mu is locked.
func (c *conn) ask(ctx context.Context, what string) error { return c.begin(ctx, "ask "+what, false) }

// change begins a call that changes something. If it returns no error, f.mu is locked.
func (c *conn) change(ctx context.Context, call string) error { return c.begin(ctx, call, true) }

func (c *conn) begin(ctx context.Context, call string, changes bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.before != nil {
		if err := c.before(call, changes); err != nil {
			return err
		}
	}
	c.f.mu.Lock()
	if c.powerOns != c.f.powerOns {
		c.f.mu.Unlock()
		return dbus.ErrLost
	}
	if changes {
		c.f.log = append(c.f.log, call)
	}
	return nil
}

// UnitProperties returns the properties that all types of units have.
func (c *conn) UnitProperties(ctx context.Context, name string) (map[string]any, error) {
	if err := c.ask(ctx, name); err != nil {
		return nil, err
	}
	defer c.f.answered()
	u := c.f.unitOrMissing(name)
	if alias := u.Deps["alias of"]; alias != nil {
		name, u = alias[0], c.f.unitOrMissing(alias[0])
	}
	number := uint32(0)
	if u.jobType() != "" {
		number = 7
	}
	properties := map[string]any{
		"Id": name, "LoadState": u.Load, "ActiveState": u.Active, "SubState": u.Sub,
		"FragmentPath": orElse(u.FragmentPath, u.file.path), "Job": []any{number, "/job/7"},
	}
	for property, list := range c.f.relations(u) {
		properties[property] = list
	}
	for key, set := range u.Flags {
		properties[key] = set
	}
	return properties, nil
}

func (f *Fake) unitOrMissing(name string) *Unit {
	if u := f.load(name); u != nil {
		return u
	}
	return missing()
}

// answered ends a call for which a unit may have been loaded. systemd keeps it only if another unit refers to it.
func (f *Fake) answered() {
	f.collect()
	f.mu.Unlock()
}

// Property returns a property of the unit's type.
func (c *conn) Property(ctx context.Context, name, _, property string) (any, error) {
	if err := c.ask(ctx, name); err != nil {
		return nil, err
	}
	defer c.f.answered()
	u := c.f.unitOrMissing(name)
	if value, ok := u.Properties[property]; ok {
		return value, nil
	}
	values := map[string]any{
		"ControlGroup": "", "Result": "success", "ExecMainCode": int32(0), "ExecMainStatus": int32(0), "StatusText": "",
	}
	if u.runFailed { // the main process ended with status 1
		values["Result"], values["ExecMainCode"], values["ExecMainStatus"] = "exit-code", int32(1), int32(1)
	}
	return values[property], nil
}

func (c *conn) JobType(ctx context.Context, name string) (string, error) {
	if err := c.ask(ctx, name); err != nil {
		return "", err
	}
	defer c.f.answered()
	return c.f.unitOrMissing(name).jobType(), nil
}

func (c *conn) LoadedUnits(ctx context.Context, pattern string) ([]string, error) {
	if err := c.ask(ctx, pattern); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	var loaded []string
	for name := range c.f.all() {
		if matches(name, pattern) {
			loaded = append(loaded, name)
		}
	}
	return loaded, nil
}

func matches(name string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// UnitFiles returns the matching units that have a unit file, loaded or not.
func (c *conn) UnitFiles(ctx context.Context, patterns ...string) ([]string, error) {
	if err := c.ask(ctx, strings.Join(patterns, " ")); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	files := map[string]bool{}
	for name, u := range c.f.units {
		files[name] = u.FragmentPath != ""
	}
	if c.f.dir != "" {
		for _, name := range names(c.f.dir) {
			files[name] = files[name] || c.f.hasFile(name)
		}
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(name string) bool {
		return !files[name] || !matches(name, patterns...)
	}), nil
}

func (c *conn) Start(ctx context.Context, name, mode string) (<-chan string, error) {
	call := "start " + name
	if mode == bus.WithDependencies {
		call += " with dependencies"
	}
	if err := c.change(ctx, call); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	result := make(chan string, 1)
	if err := c.f.start(name, mode == bus.WithDependencies, result); err != nil {
		return nil, err
	}
	return result, nil
}

func (c *conn) Stop(ctx context.Context, name string) (<-chan string, error) {
	if err := c.change(ctx, "stop "+name); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	u := c.f.load(name)
	if u == nil || u.Load == "not-found" && u.isDown() {
		return nil, noSuchUnit(name)
	}
	result := make(chan string, 1)
	c.f.queue(u, "stop", result)
	c.f.runJobs()
	return result, nil
}

// StartTransient reads of the settings what Hold sends: a unit of Type=oneshot does not end its start, and units in
// Before= wait for it. A unit of another type is active at once.
func (c *conn) StartTransient(ctx context.Context, name string, settings []bus.Setting) (<-chan string, error) {
	if err := c.change(ctx, "transient "+name); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	if c.f.load(name) != nil {
		return nil, dbus.Error{Name: bus.UnitExists, Message: "Unit " + name + " already exists."}
	}
	u := c.f.add(name, "inactive")
	u.isTransient, u.Flags["Transient"] = true, true
	for _, s := range settings {
		if list, ok := s.Value.([]string); ok && opposite[s.Name] != "" {
			u.Deps[s.Name] = slices.Clone(list)
		}
		u.StartHangs = u.StartHangs || s.Name == "Type" && s.Value == "oneshot"
		u.NoDefaults = u.NoDefaults || s.Name == "DefaultDependencies" && s.Value == false
	}
	c.f.settings[name] = settings
	result := make(chan string, 1)
	c.f.queue(u, "start", result)
	c.f.runJobs()
	return result, nil
}

func (c *conn) ResetFailed(ctx context.Context, name string) error {
	if err := c.change(ctx, "reset "+name); err != nil {
		return err
	}
	defer c.f.mu.Unlock()
	u := c.f.units[name]
	if u == nil {
		return noSuchUnit(name)
	}
	u.runFailed = false
	if u.Active == "failed" {
		c.f.enter(u, "inactive")
	}
	return nil
}

func (c *conn) Reload(ctx context.Context) error {
	if err := c.change(ctx, "reload"); err != nil {
		return err
	}
	defer c.f.mu.Unlock()
	c.f.reload()
	return nil
}

func (c *conn) Watch(ctx context.Context, name string) (<-chan struct{}, func(), error) {
	if err := c.ask(ctx, name); err != nil {
		return nil, nil, err
	}
	defer c.f.mu.Unlock()
	changed := make(chan struct{}, 1)
	c.f.watchers[changed] = name
	return changed, func() {
		c.f.mu.Lock()
		defer c.f.mu.Unlock()
		delete(c.f.watchers, changed)
	}, nil
}

func (c *conn) Disconnect() {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.log = append(c.f.log, "disconnect")
}

func (c *conn) Close() {}

func noSuchUnit(name string) error {
	return dbus.Error{Name: bus.NoSuchUnit, Message: "Unit " + name + " not found."}
}
