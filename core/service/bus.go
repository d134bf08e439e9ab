package service

import (
	"context"
	"errors"
	"os"
	"sync"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"go.pcc.com/rewind/core/fault"
)

// bus is what is needed of systemd. start and stop queue a job and return at
// once; its result comes through the channel, unless the
// connection was lost meanwhile.
type bus interface {
	unit(ctx context.Context, name string) (map[string]any, error) // loads it if need be
	property(ctx context.Context, name, kind, property string) (any, error)
	jobType(ctx context.Context, name string) (string, error) // start, restart, stop; empty: no job
	start(ctx context.Context, name, mode string) (<-chan string, error)
	stop(ctx context.Context, name string) (<-chan string, error)
	startTransient(ctx context.Context, name string, properties []sd.Property) (<-chan string, error)
	resetFailed(ctx context.Context, name string) error
	watch(name string) (changed <-chan struct{}, end func(), err error) // changed may tell too often
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

// wire is the real bus.
type wire struct {
	mu       sync.Mutex
	conn     *sd.Conn
	watchers map[chan struct{}]string // the unit that each one watches; nil: not subscribed yet
}

func dial(ctx context.Context) (*wire, error) {
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn}, nil
}

// connect prefers systemd's own socket, which needs no bus daemon. go-systemd
// ends a connection with its context, hence WithoutCancel.
func connect(ctx context.Context) (*sd.Conn, error) {
	ctx = context.WithoutCancel(ctx)
	if os.Geteuid() == 0 {
		if conn, err := sd.NewSystemdConnectionContext(ctx); err == nil {
			return conn, nil
		}
	}
	return sd.NewSystemConnectionContext(ctx)
}

// live returns the connection, a new one if systemd has executed itself again
// meanwhile, as an upgrade of its package makes it do.
func (w *wire) live(ctx context.Context) (*sd.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn.Connected() {
		return w.conn, nil
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	w.conn.Close()
	w.conn = conn
	if w.watchers != nil {
		return conn, w.subscribe()
	}
	return conn, nil
}

func (w *wire) unit(ctx context.Context, name string) (map[string]any, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return nil, err
	}
	return conn.GetUnitPropertiesContext(ctx, name)
}

func (w *wire) property(ctx context.Context, name, kind, property string) (any, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return nil, err
	}
	p, err := conn.GetUnitTypePropertyContext(ctx, name, kind, property)
	if err != nil {
		return nil, err
	}
	return p.Value.Value(), nil
}

func (w *wire) jobType(ctx context.Context, name string) (string, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return "", err
	}
	units, err := conn.ListUnitsByNamesContext(ctx, []string{name})
	if err != nil || len(units) == 0 {
		return "", err
	}
	return units[0].JobType, nil
}

func (w *wire) start(ctx context.Context, name, mode string) (<-chan string, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return nil, err
	}
	result := make(chan string, 1) // go-systemd stands still until the result is taken
	_, err = conn.StartUnitContext(ctx, name, mode, result)
	return result, err
}

func (w *wire) stop(ctx context.Context, name string) (<-chan string, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return nil, err
	}
	result := make(chan string, 1)
	_, err = conn.StopUnitContext(ctx, name, alone, result)
	return result, err
}

func (w *wire) startTransient(ctx context.Context, name string, properties []sd.Property) (<-chan string, error) {
	conn, err := w.live(ctx)
	if err != nil {
		return nil, err
	}
	result := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, name, "fail", properties, result)
	return result, err
}

func (w *wire) resetFailed(ctx context.Context, name string) error {
	conn, err := w.live(ctx)
	if err != nil {
		return err
	}
	return conn.ResetFailedUnitContext(ctx, name)
}

// watch tells of every change of a unit. The first one may be in the past.
func (w *wire) watch(name string) (<-chan struct{}, func(), error) {
	if _, err := w.live(context.Background()); err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watchers == nil {
		if err := w.subscribe(); err != nil {
			return nil, nil, err
		}
		w.watchers = make(map[chan struct{}]string)
	}
	changed := make(chan struct{}, 1)
	w.watchers[changed] = name
	end := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers, changed)
	}
	return changed, end, nil
}

// subscribe takes the changes from the connection to the watchers. The caller
// has the lock. go-systemd gives no end to a subscription but the process's.
func (w *wire) subscribe() error {
	if err := w.conn.Subscribe(); err != nil {
		return err
	}
	updates := make(chan *sd.PropertiesUpdate, 256)
	lost := make(chan error, 1)
	w.conn.SetPropertiesSubscriber(updates, lost)
	go func() {
		for {
			select {
			case u := <-updates:
				w.wake(u.UnitName)
			case <-lost:
				w.wake("") // more came than the channel holds: any unit may have changed
			}
		}
	}()
	return nil
}

func (w *wire) wake(unit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for changed, name := range w.watchers {
		if unit != "" && unit != name {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn.Close()
}

// The names of systemd's errors, from its bus-common-errors.h.
const (
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists = "org.freedesktop.systemd1.UnitExists"
	denied     = "org.freedesktop.DBus.Error.AccessDenied"
	needsAuth  = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
)

func isBus(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

func busFault(ctx context.Context, err error, format string, a ...any) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Of(ctx.Err()).Code, format+": %w", append(a, ctx.Err())...)
	case isBus(err, denied), isBus(err, needsAuth):
		return fault.New(fault.NotRoot, format+": %w", append(a, err)...).WithHint("run as root (become: true)")
	}
	return fault.New(fault.ServiceFailed, format+": %w", append(a, err)...)
}
