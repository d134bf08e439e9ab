package service

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/dbus"
)

// bus is what is needed of systemd. start and stop queue a job and return at
// once; its result comes through the channel, unless the
// connection was lost meanwhile.
type bus interface {
	unit(ctx context.Context, name string) (map[string]any, error) // loads it if need be
	property(ctx context.Context, name, kind, property string) (any, error)
	jobType(ctx context.Context, name string) (string, error) // start, restart, stop; empty: no job
	loaded(ctx context.Context, pattern string) ([]string, error)
	filed(ctx context.Context, patterns ...string) ([]string, error) // the units that files define, loaded or not
	start(ctx context.Context, name, mode string) (<-chan string, error)
	stop(ctx context.Context, name string) (<-chan string, error)
	startTransient(ctx context.Context, name string, properties []property) (<-chan string, error)
	resetFailed(ctx context.Context, name string) error
	reload(ctx context.Context) error
	watch(ctx context.Context, name string) (changed <-chan struct{}, end func(), err error) // changed may tell too often
	rest()                                                                                   // until the next call
	close()
}

// The modes of a job (org.freedesktop.systemd1(5), StartUnit). In the usual one
// a start brings up whatever is wanted along, such as a database cluster that
// its administrator has stopped, and a stop takes targets down. In the other one
// the job is of that unit alone: what is started and stopped is the plan's list
// and nothing else. Ordering counts in both.
const (
	alone = "ignore-requirements"
	usual = "replace"
)

// property is a setting of a transient unit.
type property struct {
	name  string
	value any // as package dbus sends it
}

// The names that systemd goes by (org.freedesktop.systemd1(5)).
const (
	managerPath  = "/org/freedesktop/systemd1"
	systemdFace  = "org.freedesktop.systemd1."
	managerFace  = systemdFace + "Manager"
	propertyFace = "org.freedesktop.DBus.Properties"

	transientStart = "StartTransientUnit"
)

// unitPath is the path of a unit's object: what is no ASCII letter or digit, or
// a digit at the beginning, is written as _ and two hexadecimal digits.
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

func (w *wire) unit(ctx context.Context, name string) (map[string]any, error) {
	body, err := w.do(ctx, dbus.Call{
		Path: unitPath(name), Interface: propertyFace, Member: "GetAll", Args: []any{systemdFace + "Unit"},
	})
	if err != nil {
		return nil, err
	}
	properties, ok := first(body).(map[string]any)
	if !ok {
		return nil, errUnexpected
	}
	return properties, nil
}

func (w *wire) property(ctx context.Context, name, kind, property string) (any, error) {
	body, err := w.do(ctx, dbus.Call{
		Path: unitPath(name), Interface: propertyFace, Member: "Get", Args: []any{systemdFace + kind, property},
	})
	return first(body), err
}

func (w *wire) jobType(ctx context.Context, name string) (string, error) {
	body, err := w.do(ctx, dbus.Call{
		Path: managerPath, Interface: managerFace, Member: "ListUnitsByNames", Args: []any{[]string{name}},
	})
	if err != nil {
		return "", err
	}
	const jobType = 8 // of the structure that describes a unit
	units, _ := first(body).([]any)
	about, _ := first(units).([]any)
	if len(about) <= jobType {
		return "", errUnexpected
	}
	job, _ := about[jobType].(string)
	return job, nil
}

// loaded returns the units of a pattern, such as *.socket, that systemd has loaded.
func (w *wire) loaded(ctx context.Context, pattern string) ([]string, error) {
	return w.list(ctx, "ListUnitsByPatterns", []string{pattern})
}

func (w *wire) filed(ctx context.Context, patterns ...string) ([]string, error) {
	paths, err := w.list(ctx, "ListUnitFilesByPatterns", patterns)
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths, err
}

// list calls a method that lists what matches one of the patterns, and returns the first word about each.
func (w *wire) list(ctx context.Context, method string, patterns []string) ([]string, error) {
	body, err := w.do(ctx, dbus.Call{
		Path: managerPath, Interface: managerFace, Member: method, Args: []any{[]string{}, patterns},
	})
	if err != nil {
		return nil, err
	}
	var names []string
	units, _ := first(body).([]any)
	for _, unit := range units {
		about, _ := unit.([]any)
		if name, ok := first(about).(string); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

func (w *wire) start(ctx context.Context, name, mode string) (<-chan string, error) {
	return w.job(ctx, "StartUnit", name, mode)
}

func (w *wire) stop(ctx context.Context, name string) (<-chan string, error) {
	return w.job(ctx, "StopUnit", name, alone)
}

func (w *wire) startTransient(ctx context.Context, name string, properties []property) (<-chan string, error) {
	list := dbus.Array{Of: "(sv)"}
	for _, p := range properties {
		list.Items = append(list.Items, dbus.Struct{p.name, dbus.Variant{Value: p.value}})
	}
	return w.job(ctx, transientStart, name, "fail", list, dbus.Array{Of: "(sa(sv))"})
}

// job calls a method whose answer is the path of a job.
func (w *wire) job(ctx context.Context, method string, args ...any) (<-chan string, error) {
	result := make(chan string, 1)
	_, err := w.do(ctx, dbus.Call{
		Path: managerPath, Interface: managerFace, Member: method, Args: args,
		Answered: func(body []any) { // the job may be over before our caller runs again
			path, _ := first(body).(string)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.jobs[path] = result
		},
	})
	return result, err
}

func (w *wire) resetFailed(ctx context.Context, name string) error {
	_, err := w.do(ctx, dbus.Call{Path: managerPath, Interface: managerFace, Member: "ResetFailedUnit", Args: []any{name}})
	return err
}

// reload returns when systemd has read all its files again.
func (w *wire) reload(ctx context.Context) error {
	_, err := w.do(ctx, dbus.Call{Path: managerPath, Interface: managerFace, Member: "Reload"})
	return err
}

// watch tells of every change of a unit.
func (w *wire) watch(ctx context.Context, name string) (<-chan struct{}, func(), error) {
	if _, err := w.live(ctx); err != nil {
		return nil, nil, err
	}
	changed := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchers[changed] = unitPath(name)
	end := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers, changed)
	}
	return changed, end, nil
}

// hear takes systemd's signals to whom they concern.
func (w *wire) hear(s dbus.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch s.Member {
	case "PropertiesChanged":
		w.wake(s.Path)
	case "JobRemoved": // number, path, unit, result
		body, err := s.Body()
		if err != nil || len(body) < 4 {
			return
		}
		path, _ := body[1].(string)
		if waiting := w.jobs[path]; waiting != nil {
			result, _ := body[3].(string)
			waiting <- result
			delete(w.jobs, path)
		}
	}
}

// wake tells the watchers of a unit, or of all, to look. The caller has the lock.
func (w *wire) wake(path string) {
	for changed, watched := range w.watchers {
		if path != "" && path != watched {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}

// rest ends the connection; live makes a new one.
func (w *wire) rest() {
	w.mu.Lock()
	conn := w.conn
	w.mu.Unlock()
	conn.Close()
	<-conn.Lost()
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.conn.Close()
}

var errUnexpected = errors.New("systemd answered with something else than its documentation says")

// first returns the first of some values; nil if there is none.
func first(values []any) any {
	if len(values) == 0 {
		return nil
	}
	return values[0]
}

// The names of systemd's errors, from its bus-common-errors.h.
const (
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists = "org.freedesktop.systemd1.UnitExists"
	denied     = "org.freedesktop.DBus.Error.AccessDenied"
)

func isBus(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

func busFault(ctx context.Context, err error, format string, a ...any) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Of(ctx.Err()).Code, format+": %w", append(a, ctx.Err())...)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Timeout, format+": systemd does not answer: %w", append(a, err)...).
			WithHint("look whether it works: `systemctl is-system-running`; while it reloads a large server it answers nobody")
	case isBus(err, denied), errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRoot, format+": %w", append(a, err)...).WithHint("run as root (become: true)")
	}
	return fault.New(fault.ServiceFailed, format+": %w", append(a, err)...)
}
