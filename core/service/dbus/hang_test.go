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

// In each of these tests the other side stops answering at one of the points where this package waits for it. If a
// limit has no effect, the test itself hangs.

const shortWait = 50 * time.Millisecond

// silentSocket returns the path of a socket on which nothing accepts connections. queue is how many connections may
// wait there in addition to the first.
func silentSocket(t *testing.T, queue int) string {
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

func TestDialTimesOutIfNothingAnswers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), shortWait)
	defer cancel()
	_, err := Dial(ctx, silentSocket(t, 0), nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

func TestDialTimesOutIfNothingAccepts(t *testing.T) {
	path := silentSocket(t, 0)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil { // the queue is full now
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), shortWait)
	defer cancel()
	_, err = Dial(ctx, path, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "accepts nobody") {
		t.Error(err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(shortWait, cancel)
	if _, err := Dial(ctx, silentSocket(t, 0), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCallEndsWithItsContextIfNothingReads(t *testing.T) {
	client, systemd := connectedPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		systemd.authenticate()
		_, _ = systemd.in.ReadByte() // the call begins to arrive; the rest of it is not read
		cancel()
	}()
	c, err := newConn(t.Context(), client, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 8<<20) // more than a socket holds
	_, err = c.Do(ctx, Call{Path: "/a", Interface: "org.x", Member: "Do", Args: []any{large}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "takes no call") {
		t.Error(err)
	}
	<-c.Lost() // half a message was sent: nothing may follow it
}

// A connection that this side has closed, as Systemd.Rest does, is lost: the caller may make the call again.
func TestCallOnAClosedConnectionIsLost(t *testing.T) {
	client, systemd := connectedPair(t)
	go systemd.authenticate()
	c, err := newConn(t.Context(), client, func(Signal) {})
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
		t.Error("Lost is not closed: a second call would use the same connection")
	}
}

// Calls that wait when the connection ends must find Lost closed, so that a second try does not use the same
// connection.
func TestWaitingCallsSeeTheConnectionLost(t *testing.T) {
	const calls = 500 // many, so that the first call fails long before the last
	client, systemd := connectedPair(t)
	go func() {
		systemd.authenticate()
		for range calls {
			systemd.readCall()
		}
		systemd.socket.Close()
	}()
	c, err := newConn(t.Context(), client, func(Signal) {})
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
