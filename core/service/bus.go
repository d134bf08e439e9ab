package service

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/dbus"
)

// bus has the calls to systemd that this package needs. start, stop and startTransient queue a job and return at once.
// The result of the job is sent to the channel, unless the connection is lost before.
type bus interface {
	unitProperties(ctx context.Context, name string) (map[string]any, error) // loads the unit if necessary
	property(ctx context.Context, name, unitType, property string) (any, error)
	jobType(ctx context.Context, name string) (string, error) // such as start, restart or stop; empty: no job
	loadedUnits(ctx context.Context, pattern string) ([]string, error)
	unitFiles(ctx context.Context, patterns ...string) ([]string, error) // units that have a unit file, loaded or not
	start(ctx context.Context, name, mode string) (<-chan string, error)
	stop(ctx context.Context, name string) (<-chan string, error)
	startTransient(ctx context.Context, name string, settings []setting) (<-chan string, error)
	resetFailed(ctx context.Context, name string) error
	reload(ctx context.Context) error
	// watch signals every change of the unit, and perhaps more often, until end is called.
	watch(ctx context.Context, name string) (changed <-chan struct{}, end func(), err error)
	disconnect() // the next call connects again
	close()
}

// The modes of a job (org.freedesktop.systemd1(5), StartUnit). With withDependencies a start also starts the units that
// the unit pulls in, such as a database cluster that its administrator has stopped, and a stop also stops targets. With
// unitOnly the job is for this unit alone, so that exactly the units of the plan are started and stopped. The order of
// the units counts in both modes.
const (
	unitOnly         = "ignore-requirements"
	withDependencies = "replace"
)

// setting is a property of a transient unit.
type setting struct {
	name  string
	value any // a value that package dbus can send
}

// The D-Bus names of systemd (org.freedesktop.systemd1(5)).
const (
	managerPath         = "/org/freedesktop/systemd1"
	interfacePrefix     = "org.freedesktop.systemd1."
	managerInterface    = interfacePrefix + "Manager"
	propertiesInterface = "org.freedesktop.DBus.Properties"

	methodStartTransient = "StartTransientUnit"
)

// unitPath returns the object path of a unit: any byte that is not an ASCII letter or digit, and a digit at the
// beginning, is written as _ and two hexadecimal digits.
func unitPath(name string) string {
	const digits = "0123456789abcdef"
	path := []byte(managerPath + "/unit/")
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			path = append(path, c)
			continue
		}
		path = append(path, '_', digits[c>>4], digits[c&15])
	}
	return string(path)
}

func (b *socketBus) unitProperties(ctx context.Context, name string) (map[string]any, error) {
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

func (b *socketBus) property(ctx context.Context, name, unitType, property string) (any, error) {
	body, err := b.call(ctx, dbus.Call{
		Path: unitPath(name), Interface: propertiesInterface, Member: "Get",
		Args: []any{interfacePrefix + unitType, property},
	})
	return firstValue(body), err
}

func (b *socketBus) jobType(ctx context.Context, name string) (string, error) {
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

// loadedUnits returns the units that systemd has loaded and whose names match a pattern, such as *.socket.
func (b *socketBus) loadedUnits(ctx context.Context, pattern string) ([]string, error) {
	return b.listNames(ctx, "ListUnitsByPatterns", []string{pattern})
}

func (b *socketBus) unitFiles(ctx context.Context, patterns ...string) ([]string, error) {
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

func (b *socketBus) start(ctx context.Context, name, mode string) (<-chan string, error) {
	return b.queueJob(ctx, "StartUnit", name, mode)
}

func (b *socketBus) stop(ctx context.Context, name string) (<-chan string, error) {
	return b.queueJob(ctx, "StopUnit", name, unitOnly)
}

func (b *socketBus) startTransient(ctx context.Context, name string, settings []setting) (<-chan string, error) {
	list := dbus.Array{Of: "(sv)"}
	for _, p := range settings {
		list.Items = append(list.Items, dbus.Struct{p.name, dbus.Variant{Value: p.value}})
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

func (b *socketBus) resetFailed(ctx context.Context, name string) error {
	_, err := b.call(ctx, dbus.Call{
		Path: managerPath, Interface: managerInterface, Member: "ResetFailedUnit", Args: []any{name},
	})
	return err
}

// reload returns when systemd has read all unit files again.
func (b *socketBus) reload(ctx context.Context) error {
	_, err := b.call(ctx, dbus.Call{Path: managerPath, Interface: managerInterface, Member: "Reload"})
	return err
}

// watch signals every change of a unit.
func (b *socketBus) watch(ctx context.Context, name string) (<-chan struct{}, func(), error) {
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

// disconnect ends the connection. The next call of liveConn makes a new one.
func (b *socketBus) disconnect() {
	b.mu.Lock()
	conn := b.conn
	b.mu.Unlock()
	conn.Close()
	<-conn.Lost()
}

func (b *socketBus) close() {
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

// Names of D-Bus errors: systemd's (systemd, src/libsystemd/sd-bus/bus-common-errors.h) and one of D-Bus itself.
const (
	noSuchUnit   = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists   = "org.freedesktop.systemd1.UnitExists"
	accessDenied = "org.freedesktop.DBus.Error.AccessDenied"
)

// isBusError reports whether err is the D-Bus error of this name.
func isBusError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// busFault returns the fault for a call to systemd that failed. The format and a say what was asked. Faults:
// interrupted or timeout if ctx has ended, timeout if systemd does not answer, not_root if systemd denies access, else
// service_failed.
func busFault(ctx context.Context, err error, format string, a ...any) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Of(ctx.Err()).Code, format+": %w", append(a, ctx.Err())...)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Timeout, format+": systemd does not answer: %w", append(a, err)...).
			WithHint("look whether it works: `systemctl is-system-running`; while it reloads a large server it answers nobody")
	case isBusError(err, accessDenied), errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRoot, format+": %w", append(a, err)...).WithHint("run as root (become: true)")
	}
	return fault.New(fault.ServiceFailed, format+": %w", append(a, err)...)
}
