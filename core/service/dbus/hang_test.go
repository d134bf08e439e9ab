package dbus

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Each of these hangs the other side at one of the places where we wait for it. A limit that does not count hangs the
// test itself.

const moment = 50 * time.Millisecond

// listener is a socket on which nobody accepts; queue is how many connections wait there beside the first.
func listener(t *testing.T, queue int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, queue); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDialOfOneThatSaysNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	_, err := Dial(ctx, listener(t, 0), nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

func TestDialOfOneThatAcceptsNobody(t *testing.T) {
	path := listener(t, 0)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil { // the queue is full now
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	_, err = Dial(ctx, path, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "accepts nobody") {
		t.Error(err)
	}
}

func TestDialEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(moment, cancel)
	if _, err := Dial(ctx, listener(t, 0), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCallToOneThatReadsNothing(t *testing.T) {
	here, server := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		server.welcome()
		_, _ = server.in.ReadByte() // the call has begun to come in; no more of it is read
		cancel()
	}()
	c, err := open(t.Context(), here, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 8<<20) // more than a socket holds
	_, err = c.Do(ctx, Call{Path: "/a", Interface: "org.x", Member: "Do", Args: []any{large}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "takes no call") {
		t.Error(err)
	}
	<-c.Lost() // half a message went out: nothing may follow it
}

// A connection that this side has closed, as to be at rest, is lost: what is called on it may be called again.
func TestCallOnAConnectionThatWasClosed(t *testing.T) {
	here, server := pair(t)
	go server.welcome()
	c, err := open(t.Context(), here, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := c.Do(t.Context(), Call{Path: "/a", Interface: "org.x", Member: "Do"}); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	select {
	case <-c.Lost():
	default:
		t.Error("whoever asks again would be given the same connection")
	}
}

// Calls that wait when the connection ends see it lost: whoever asks again is not given the same one.
func TestCallsThatWaitWhenTheConnectionEnds(t *testing.T) {
	const calls = 500 // many, so that the first is told long before the last
	here, server := pair(t)
	go func() {
		server.welcome()
		for range calls {
			server.called()
		}
		server.socket.Close()
	}()
	c, err := open(t.Context(), here, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	for range calls {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			_, err := c.Do(t.Context(), Call{Path: "/a", Interface: "org.x", Member: "Do"})
			select {
			case <-c.Lost():
			default:
				t.Errorf("the connection does not seem lost after: %v", err)
			}
		}()
	}
	waiting.Wait()
}
