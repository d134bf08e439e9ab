package bus

import (
	"context"
	"errors"
	"path/filepath"

	"go.pcc.com/rewind/core/service/dbus"
)

// The D-Bus names of systemd (org.freedesktop.systemd1(5)).
const (
	managerPath         = "/org/freedesktop/systemd1"
	interfacePrefix     = "org.freedesktop.systemd1."
	managerInterface    = interfacePrefix + "Manager"
	propertiesInterface = "org.freedesktop.DBus.Properties"

	methodStartTransient = "StartTransientUnit"
)

func (b *socketBus) UnitProperties(ctx context.Context, name string) (map[string]any, error) {
	body, err := b.call(ctx, dbus.Call{
		Path: unitPath(name), Interface: propertiesInterface, Member: "GetAll", Args: []any{interfacePrefix + "Unit"},
	})
	if err != nil {
		return nil, err
	}
	properties, ok := firstValue(body).(map[string]any)
	if !ok {
		return nil, errUnexpected
	}
	return properties, nil
}

func (b *socketBus) Property(ctx context.Context, name, unitType, property string) (any, error) {
	body, err := b.call(ctx, dbus.Call{
		Path: unitPath(name), Interface: propertiesInterface, Member: "Get",
		Args: []any{interfacePrefix + unitType, property},
	})
	return firstValue(body), err
}

func (b *socketBus) JobType(ctx context.Context, name string) (string, error) {
	body, err := b.call(ctx, dbus.Call{
		Path: managerPath, Interface: managerInterface, Member: "ListUnitsByNames", Args: []any{[]string{name}},
	})
	if err != nil {
		return "", err
	}
	const jobType = 8 // index in the structure that describes a unit
	units, _ := firstValue(body).([]any)
	description, _ := firstValue(units).([]any)
	if len(description) <= jobType {
		return "", errUnexpected
	}
	job, _ := description[jobType].(string)
	return job, nil
}

// LoadedUnits returns the units that systemd has loaded and whose names match a pattern, such as *.socket.
func (b *socketBus) LoadedUnits(ctx context.Context, pattern string) ([]string, error) {
	return b.listNames(ctx, "ListUnitsByPatterns", []string{pattern})
}

func (b *socketBus) UnitFiles(ctx context.Context, patterns ...string) ([]string, error) {
	paths, err := b.listNames(ctx, "ListUnitFilesByPatterns", patterns)
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths, err
}

// listNames calls a method that lists what matches one of the patterns. It returns the first field of each item.
func (b *socketBus) listNames(ctx context.Context, method string, patterns []string) ([]string, error) {
	body, err := b.call(ctx, dbus.Call{
		Path: managerPath, Interface: managerInterface, Member: method, Args: []any{[]string{}, patterns},
	})
	if err != nil {
		return nil, err
	}
	var names []string
	units, _ := firstValue(body).([]any)
	for _, unit := range units {
		description, _ := unit.([]any)
		if name, ok := firstValue(description).(string); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

func (b *socketBus) Start(ctx context.Context, name, mode string) (<-chan string, error) {
	return b.queueJob(ctx, "StartUnit", name, mode)
}

func (b *socketBus) Stop(ctx context.Context, name string) (<-chan string, error) {
	return b.queueJob(ctx, "StopUnit", name, UnitOnly)
}

func (b *socketBus) StartTransient(ctx context.Context, name string, settings []Setting) (<-chan string, error) {
	list := dbus.Array{Of: "(sv)"}
	for _, p := range settings {
		list.Items = append(list.Items, dbus.Struct{p.Name, dbus.Variant{Value: p.Value}})
	}
	return b.queueJob(ctx, methodStartTransient, name, "fail", list, dbus.Array{Of: "(sa(sv))"})
}

// queueJob calls a method that queues a job and answers with the path of the job.
func (b *socketBus) queueJob(ctx context.Context, method string, args ...any) (<-chan string, error) {
	result := make(chan string, 1)
	_, err := b.call(ctx, dbus.Call{
		Path: managerPath, Interface: managerInterface, Member: method, Args: args,
		Answered: func(body []any) { // before the next signal is handled, which may say that the job has ended
			path, _ := firstValue(body).(string)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.jobs[path] = result
		},
	})
	return result, err
}

func (b *socketBus) ResetFailed(ctx context.Context, name string) error {
	_, err := b.call(ctx, dbus.Call{
		Path: managerPath, Interface: managerInterface, Member: "ResetFailedUnit", Args: []any{name},
	})
	return err
}

// Reload returns when systemd has read all unit files again.
func (b *socketBus) Reload(ctx context.Context) error {
	_, err := b.call(ctx, dbus.Call{Path: managerPath, Interface: managerInterface, Member: "Reload"})
	return err
}

// Watch signals every change of a unit.
func (b *socketBus) Watch(ctx context.Context, name string) (<-chan struct{}, func(), error) {
	if _, err := b.liveConn(ctx); err != nil {
		return nil, nil, err
	}
	changed := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[changed] = unitPath(name)
	end := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, changed)
	}
	return changed, end, nil
}

// handleSignal passes on a signal of systemd to the watchers of the unit, or to the caller that waits for the job.
func (b *socketBus) handleSignal(s dbus.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch s.Member {
	case "PropertiesChanged":
		b.notifyWatchers(s.Path)
	case "JobRemoved": // number, path, unit, result
		body, err := s.Body()
		if err != nil || len(body) < 4 {
			return
		}
		path, _ := body[1].(string)
		if waiting := b.jobs[path]; waiting != nil {
			result, _ := body[3].(string)
			waiting <- result
			delete(b.jobs, path)
		}
	}
}

// notifyWatchers signals the watchers of a unit, or all watchers if path is empty. The caller holds b.mu.
func (b *socketBus) notifyWatchers(path string) {
	for changed, watched := range b.watchers {
		if path != "" && path != watched {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // it has not yet received the last signal
		}
	}
}

// Disconnect ends the connection. The next call of liveConn makes a new one.
func (b *socketBus) Disconnect() {
	b.mu.Lock()
	conn := b.conn
	b.mu.Unlock()
	conn.Close()
	<-conn.Lost()
}

func (b *socketBus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.conn.Close()
}

var errUnexpected = errors.New("systemd's answer differs from its documentation")

// firstValue returns the first of the values, or nil if there is none.
func firstValue(values []any) any {
	if len(values) == 0 {
		return nil
	}
	return values[0]
}
