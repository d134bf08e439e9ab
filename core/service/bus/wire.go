package bus

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"go.pcc.com/rewind/core/service/dbus"
)

// socketBus is a Bus over systemd's own socket, which needs no bus daemon.
type socketBus struct {
	path string // the path of the socket

	mu           sync.Mutex // never held while waiting for systemd
	conn         *dbus.Conn
	reconnecting *attempt                   // the attempt to connect again; nil: none is under way
	closed       bool                       // Close was called
	jobs         map[string]chan<- string   // by the path of a job: receives its result
	watchers     map[chan<- struct{}]string // the object path of the unit that each channel watches
}

// attempt is one attempt to connect again, shared by all callers that wait for it. conn and err are valid after done is
// closed.
type attempt struct {
	done chan struct{}
	conn *dbus.Conn
	err  error
}

// reexecLimit is the longest time for making a connection. While systemd executes itself again nobody listens at its
// socket, and afterwards systemd may let a new connection wait.
const reexecLimit = 30 * time.Second

// Dial connects to systemd at the socket at path, which is dbus.Private but in tests.
func Dial(ctx context.Context, path string) (Bus, error) { return dial(ctx, path) }

func dial(ctx context.Context, path string) (*socketBus, error) {
	limited, cancel := context.WithTimeout(ctx, reexecLimit)
	defer cancel()
	b := &socketBus{path: path, jobs: map[string]chan<- string{}, watchers: map[chan<- struct{}]string{}}
	conn, err := redial(limited, path, b.handleSignal)
	b.conn = conn
	return b, err
}

// liveConn returns the connection. It makes a new one if systemd has executed itself again, as it does when its package
// is upgraded. It waits no longer than ctx.
func (b *socketBus) liveConn(ctx context.Context) (*dbus.Conn, error) {
	b.mu.Lock()
	select {
	case <-b.conn.Lost():
	default:
		defer b.mu.Unlock()
		return b.conn, nil
	}
	if b.reconnecting == nil {
		b.reconnecting = &attempt{done: make(chan struct{})}
		go b.reconnect(b.reconnecting)
	}
	pending := b.reconnecting
	b.mu.Unlock()
	select {
	case <-pending.done:
		return pending.conn, pending.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reconnect makes the attempt a to connect again.
func (b *socketBus) reconnect(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), reexecLimit)
	defer cancel()
	a.conn, a.err = redial(ctx, b.path, b.handleSignal)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer close(a.done)
	b.reconnecting = nil
	if a.err != nil {
		return
	}
	b.conn = a.conn
	if b.closed {
		a.conn.Close()
	}
	b.notifyWatchers("") // signals that were sent meanwhile did not arrive
}

// redial dials until systemd answers: while it executes itself again, it does not.
func redial(ctx context.Context, path string, handle func(dbus.Signal)) (*dbus.Conn, error) {
	const pause = 50 * time.Millisecond
	for {
		conn, err := dbus.Dial(ctx, path, handle)
		if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
			return conn, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// answerLimit is the longest time for systemd to answer a call: while it reloads the units of a large server it answers
// no call. The end of a job is not an answer; other code waits for that.
const answerLimit = 3 * time.Minute

// call calls a method of systemd, and calls it again if the connection is lost before the answer comes. Every method
// that is called here may be called twice, except the one that starts a transient unit: the second call would find the
// unit that the first has made.
func (b *socketBus) call(ctx context.Context, c dbus.Call) ([]any, error) {
	body, err := b.callOnce(ctx, c)
	if errors.Is(err, dbus.ErrLost) && c.Member != methodStartTransient && ctx.Err() == nil {
		body, err = b.callOnce(ctx, c)
	}
	return body, err
}

func (b *socketBus) callOnce(ctx context.Context, c dbus.Call) ([]any, error) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := b.liveConn(limited)
	if err != nil {
		return nil, err
	}
	return conn.Do(limited, c)
}
