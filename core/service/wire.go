package service

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"go.pcc.com/rewind/core/service/dbus"
)

// wire is the real bus: systemd's own socket, which needs no bus daemon.
type wire struct {
	path string // of the socket

	mu       sync.Mutex // held for moments only: never while systemd is waited for
	conn     *dbus.Conn
	again    *attempt                   // to connect anew; nil: none is under way
	closed   bool                       // by us
	jobs     map[string]chan<- string   // who waits for the result, by the job's path
	watchers map[chan<- struct{}]string // the path of the unit that each one watches
}

// attempt is one try to connect anew, for all who wait for it. conn and err count when done is closed.
type attempt struct {
	done chan struct{}
	conn *dbus.Conn
	err  error
}

// executeLimit bounds the time in which systemd executes itself again and nobody listens at its socket, and that in
// which it may let a first connection wait.
const executeLimit = 30 * time.Second

func dial(ctx context.Context, path string) (*wire, error) {
	limited, cancel := context.WithTimeout(ctx, executeLimit)
	defer cancel()
	w := &wire{path: path, jobs: map[string]chan<- string{}, watchers: map[chan<- struct{}]string{}}
	conn, err := redial(limited, path, w.hear)
	w.conn = conn
	return w, err
}

// live returns the connection, a new one if systemd has executed itself again meanwhile, as an upgrade of its package
// makes it do. Whoever waits for a new one waits no longer than ctx.
func (w *wire) live(ctx context.Context) (*dbus.Conn, error) {
	w.mu.Lock()
	select {
	case <-w.conn.Lost():
	default:
		defer w.mu.Unlock()
		return w.conn, nil
	}
	if w.again == nil {
		w.again = &attempt{done: make(chan struct{})}
		go w.reconnect(w.again)
	}
	again := w.again
	w.mu.Unlock()
	select {
	case <-again.done:
		return again.conn, again.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) reconnect(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), executeLimit)
	defer cancel()
	a.conn, a.err = redial(ctx, w.path, w.hear)
	w.mu.Lock()
	defer w.mu.Unlock()
	defer close(a.done)
	w.again = nil
	if a.err != nil {
		return
	}
	w.conn = a.conn
	if w.closed {
		a.conn.Close()
	}
	w.wake("") // what changed meanwhile was not heard
}

// redial dials until somebody answers: while systemd executes itself again, nobody does.
func redial(ctx context.Context, path string, hear func(dbus.Signal)) (*dbus.Conn, error) {
	const pause = 50 * time.Millisecond
	for {
		conn, err := dbus.Dial(ctx, path, hear)
		if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
			return conn, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// answerLimit is how long systemd may take to answer a call; while it reloads all units of a large server it answers
// nobody. A job's result is no answer: that is waited for elsewhere.
const answerLimit = 3 * time.Minute

// do calls systemd, and again if the connection was lost before the answer came: all that is asked here may be asked
// twice, but for the start of a transient unit, which would find itself there.
func (w *wire) do(ctx context.Context, c dbus.Call) ([]any, error) {
	body, err := w.once(ctx, c)
	if errors.Is(err, dbus.ErrLost) && c.Member != transientStart && ctx.Err() == nil {
		body, err = w.once(ctx, c)
	}
	return body, err
}

func (w *wire) once(ctx context.Context, c dbus.Call) ([]any, error) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := w.live(limited)
	if err != nil {
		return nil, err
	}
	return conn.Do(limited, c)
}
