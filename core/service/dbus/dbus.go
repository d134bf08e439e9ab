// Package dbus speaks D-Bus with systemd over systemd's own socket: it makes method calls and receives their answers,
// and signals.
//
// It has only what Rewind needs of the protocol: one peer on this machine, no bus daemon, and no objects of its own. A
// whole D-Bus library has a DNS resolver and two kinds of authentication with their cryptography, and its use of
// reflection makes the linker keep all methods of all types: that would be a fifth of a program that is sent to every
// server for every task.
//
// The specification is https://dbus.freedesktop.org/doc/dbus-specification.html.
package dbus

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Private is the socket at which systemd itself listens, for root only. Over this socket systemd sends every signal,
// also to clients that have not subscribed (systemd, src/core/dbus.c, bus_foreach_bus).
const Private = "/run/systemd/private"

// Error is an error with which systemd answered a call.
type Error struct {
	Name    string // such as org.freedesktop.systemd1.NoSuchUnit
	Message string
}

func (e Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Message
}

// Signal is a D-Bus signal: a message that systemd sends without having been asked.
type Signal struct {
	Path, Interface, Member string

	// Body decodes the values. It is a function because most signals are ignored: a change of devices brings hundreds of
	// them, each with all properties of a unit.
	Body func() ([]any, error)
}

// Call is a method call.
type Call struct {
	Path, Interface, Member string
	Args                    []any

	// Answered is called with the values of the answer before any later message is handled. So the caller can register for
	// signals about the object that the answer names, even if they follow at once. Answered must not call methods itself.
	// It may be nil.
	Answered func(body []any)
}

// Conn is a connection to systemd. It is safe for concurrent use.
type Conn struct {
	socket   *os.File
	onSignal func(Signal)
	lost     chan struct{} // closed when the connection has ended

	mu        sync.Mutex
	serial    uint32
	pending   map[uint32]*pendingCall
	lostCause error // why the connection ended; nil: it has not ended
}

// pendingCall is a call that waits for its reply.
type pendingCall struct {
	onReply func([]any)
	reply   chan reply
}

// reply is what the caller of Do gets: the values of the answer, or an error.
type reply struct {
	body []any
	err  error
}

// ErrLost is the error of a call whose connection ended before the answer came. systemd may or may not have received
// the call.
var ErrLost = errors.New("is lost")

// Dial connects to the socket at path. It gives up when ctx ends, so ctx must have a deadline or be cancelled at some
// time: systemd may not accept the connection, or accept it and not answer. onSignal is called for each signal, one
// after the other and in order with the answers. It must neither block nor call methods.
func Dial(ctx context.Context, path string, onSignal func(Signal)) (*Conn, error) {
	// The socket is non-blocking, so that Close ends a Read, and connect(2) fails at once if the queue of connections is
	// full.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := connect(ctx, fd, path); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return newConn(ctx, os.NewFile(uintptr(fd), path), onSignal)
}

// connect connects the socket. While the queue of connections that systemd has not accepted is full (connect(2),
// EAGAIN), it tries again.
func connect(ctx context.Context, fd int, path string) error {
	const pause = 20 * time.Millisecond
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it accepts nobody: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// newConn authenticates over a connected socket and starts to read from it.
func newConn(ctx context.Context, socket *os.File, onSignal func(Signal)) (*Conn, error) {
	c := &Conn{socket: socket, onSignal: onSignal, lost: make(chan struct{}), pending: map[uint32]*pendingCall{}}
	in := bufio.NewReader(socket)
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(0, 1)) })
	err := c.authenticate(in)
	if !stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%s accepts us and does not answer: %w", socket.Name(), ctx.Err())
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	go c.readLoop(in)
	return c, nil
}

// authenticate uses the mechanism EXTERNAL: systemd asks the kernel for our user id. BEGIN is sent in the same write,
// as sd-bus does it. No call is sent before systemd's answer: systemd does not look at what it has read after BEGIN
// until more data arrives, so it would never answer a call that it reads together with BEGIN (seen with systemd 252).
func (c *Conn) authenticate(in *bufio.Reader) error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))
	if _, err := c.socket.WriteString("\x00AUTH EXTERNAL " + uid + "\r\nBEGIN\r\n"); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "OK") {
		return fmt.Errorf("%s does not let us in: %s", c.socket.Name(), strings.TrimSpace(line))
	}
	return nil
}

// Close ends the connection. Calls that are under way fail.
func (c *Conn) Close() { c.socket.Close() }

// Lost returns a channel that is closed when either side has ended the connection.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Do calls a method and returns the values of its answer. It returns when ctx ends; the method may be executed all the
// same. If the call has been written only in part by then, Do ends the connection. Errors: an Error if systemd answers
// with one, ErrLost if the connection has ended, the error of ctx.
func (c *Conn) Do(ctx context.Context, call Call) ([]any, error) {
	pending := &pendingCall{onReply: call.Answered, reply: make(chan reply, 1)}
	serial, err := c.send(ctx, call, pending)
	if errors.Is(err, ErrLost) {
		<-c.lost // readLoop closes it soon; a caller that checks Lost before a second try must see that this connection ended
	}
	if err != nil {
		return nil, err
	}
	select {
	case a := <-pending.reply:
		return a.body, a.err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pending, serial)
		return nil, ctx.Err()
	}
}

// send writes a call. It gives up when ctx ends: if systemd reads nothing, the socket's buffer fills up.
func (c *Conn) send(ctx context.Context, call Call, pending *pendingCall) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lostCause != nil {
		return 0, c.lostCause
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	c.serial++
	c.pending[c.serial] = pending
	deadlineSet := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.socket.SetWriteDeadline(time.Unix(0, 1))
		close(deadlineSet)
	})
	n, err := c.socket.Write(encodeCall(c.serial, call.Path, call.Interface, call.Member, call.Args))
	if !stop() {
		<-deadlineSet // the function runs: it must not set the deadline later, during the next call
		_ = c.socket.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return c.serial, nil
	}
	delete(c.pending, c.serial)
	if late := errors.Is(err, os.ErrDeadlineExceeded); late && n == 0 {
		return 0, fmt.Errorf("%s takes no call: %w", c.socket.Name(), ctx.Err())
	} else if late {
		err = fmt.Errorf("%s takes no call: %w", c.socket.Name(), ctx.Err())
	} else {
		err = fmt.Errorf("the connection to %s %w: %w", c.socket.Name(), ErrLost, err)
	}
	// systemd would take whatever follows half a message for the rest of it, so the connection cannot be used any more.
	c.socket.Close()
	return 0, err
}

// readLoop handles incoming messages until the connection ends.
func (c *Conn) readLoop(in *bufio.Reader) {
	for {
		m, err := readMessage(in)
		if err != nil {
			c.fail(err)
			return
		}
		switch m.kind {
		case typeReturn, typeError:
			c.deliver(m)
		case typeSignal:
			c.onSignal(Signal{m.text(fieldPath), m.text(fieldInterface), m.text(fieldMember), m.values})
		}
	}
}

// deliver passes an answer on to the call that waits for it.
func (c *Conn) deliver(m message) {
	serial, _ := m.fields[fieldReplySerial].(uint32)
	c.mu.Lock()
	pending := c.pending[serial]
	delete(c.pending, serial)
	c.mu.Unlock()
	if pending == nil {
		return // the caller has given up
	}
	body, err := m.values()
	if err == nil && m.kind == typeError {
		e := Error{Name: m.text(fieldError)}
		if len(body) > 0 {
			e.Message, _ = body[0].(string)
		}
		err = e
	}
	if err == nil && pending.onReply != nil {
		pending.onReply(body)
	}
	pending.reply <- reply{body, err}
}

// fail ends the connection and fails every call that waits for its answer.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.socket.Close()
	c.lostCause = fmt.Errorf("the connection to %s %w: %w", c.socket.Name(), ErrLost, err)
	close(c.lost) // before the calls fail: a caller that tries again at once must see that this connection ended
	for serial, pending := range c.pending {
		pending.reply <- reply{err: c.lostCause}
		delete(c.pending, serial)
	}
}
