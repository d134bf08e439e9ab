// Package dbus speaks D-Bus with systemd over systemd's own socket: calls, their answers, and signals.
//
// It is what is needed of the protocol and no more: one peer on this machine, no bus daemon, no objects of our own. A
// whole D-Bus library brings a DNS resolver, two kinds of authentication and their cryptography, and keeps all methods
// of all types alive by reflection: a fifth of a program that is sent to every server at every task.
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

// Private is the socket on which systemd itself listens, for root only. Over it systemd sends every signal, whether
// somebody subscribed or not (systemd, src/core/dbus.c, bus_foreach_bus).
const Private = "/run/systemd/private"

// Error is an error that systemd answered with.
type Error struct {
	Name    string // org.freedesktop.systemd1.NoSuchUnit
	Message string
}

func (e Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Message
}

// Signal is something that systemd tells of its own accord.
type Signal struct {
	Path, Interface, Member string

	// Body reads the values. Of most signals nobody wants them: a change of devices brings hundreds, each with all
	// properties of a unit.
	Body func() ([]any, error)
}

// Call is a method to be called.
type Call struct {
	Path, Interface, Member string
	Args                    []any

	// Answered is called with the answer before anything that came after it is looked at: what the answer names can be
	// registered for signals that follow at once. It must not call methods itself. May be nil.
	Answered func(body []any)
}

// Conn is a connection. It is safe for concurrent use.
type Conn struct {
	socket *os.File
	signal func(Signal)
	lost   chan struct{} // closed at the end of the connection

	mu     sync.Mutex
	serial uint32
	calls  map[uint32]*waiting
	cause  error // why the connection is lost
}

type waiting struct {
	answered func([]any)
	answer   chan answer
}

type answer struct {
	body []any
	err  error
}

// ErrLost is the error of a call whose connection ended before the answer came. Whether it was heard is not known.
var ErrLost = errors.New("is lost")

// Dial connects to the socket at path until ctx ends, which must have an end: systemd may accept nobody, or accept and
// say nothing. signal is called for each signal, one after the other and in order with answers; it must neither block
// nor call methods.
func Dial(ctx context.Context, path string, signal func(Signal)) (*Conn, error) {
	// Not blocking, so that Close ends a Read, and a full queue of connections is noticed here and not waited for there.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := connect(ctx, fd, path); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return open(ctx, os.NewFile(uintptr(fd), path), signal)
}

// connect asks again while the other side has not accepted those that came before (connect(2), EAGAIN).
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

// open says who we are and begins to read.
func open(ctx context.Context, socket *os.File, signal func(Signal)) (*Conn, error) {
	c := &Conn{socket: socket, signal: signal, lost: make(chan struct{}), calls: map[uint32]*waiting{}}
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
	go c.listen(in)
	return c, nil
}

// authenticate uses EXTERNAL: the other side asks the kernel who we are. BEGIN goes out in the same write, as sd-bus
// does it, and no call before the answer: systemd looks at what it has read beyond BEGIN only when more comes in, so a
// call that it reads together with BEGIN would be answered never (seen with systemd 252).
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

// Close ends the connection; calls under way fail.
func (c *Conn) Close() { c.socket.Close() }

// Lost is closed when the connection has ended, by either side.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Do calls a method and returns the values of its answer. When ctx ends it does not wait any longer; the method may be
// done all the same. A call that could not be handed over as a whole by then ends the connection.
func (c *Conn) Do(ctx context.Context, m Call) ([]any, error) {
	w := &waiting{answered: m.Answered, answer: make(chan answer, 1)}
	serial, err := c.send(ctx, m, w)
	if errors.Is(err, ErrLost) {
		<-c.lost // its reader sees the end at once; whoever asks again must not be given the same connection
	}
	if err != nil {
		return nil, err
	}
	select {
	case a := <-w.answer:
		return a.body, a.err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, serial)
		return nil, ctx.Err()
	}
}

// send writes until ctx ends: a systemd that reads nothing fills the socket.
func (c *Conn) send(ctx context.Context, m Call, w *waiting) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return 0, c.cause
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	c.serial++
	c.calls[c.serial] = w
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.socket.SetWriteDeadline(time.Unix(0, 1))
		close(ended)
	})
	n, err := c.socket.Write(call(c.serial, m.Path, m.Interface, m.Member, m.Args))
	if !stop() {
		<-ended // it is running: it must not reach into the next call's time
		_ = c.socket.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return c.serial, nil
	}
	delete(c.calls, c.serial)
	if late := errors.Is(err, os.ErrDeadlineExceeded); late && n == 0 {
		return 0, fmt.Errorf("%s takes no call: %w", c.socket.Name(), ctx.Err())
	} else if late {
		err = fmt.Errorf("%s takes no call: %w", c.socket.Name(), ctx.Err())
	} else {
		err = fmt.Errorf("the connection to %s %w: %w", c.socket.Name(), ErrLost, err)
	}
	// Whatever followed half a message would be taken for its rest, and one side of a connection is none.
	c.socket.Close()
	return 0, err
}

// listen hands out what comes in until the connection ends.
func (c *Conn) listen(in *bufio.Reader) {
	for {
		m, err := read(in)
		if err != nil {
			c.end(err)
			return
		}
		switch m.kind {
		case typeReturn, typeError:
			c.answer(m)
		case typeSignal:
			c.signal(Signal{m.text(fieldPath), m.text(fieldInterface), m.text(fieldMember), m.values})
		}
	}
}

func (c *Conn) answer(m message) {
	serial, _ := m.fields[fieldReply].(uint32)
	c.mu.Lock()
	w := c.calls[serial]
	delete(c.calls, serial)
	c.mu.Unlock()
	if w == nil {
		return // nobody waits any more
	}
	body, err := m.values()
	if err == nil && m.kind == typeError {
		e := Error{Name: m.text(fieldError)}
		if len(body) > 0 {
			e.Message, _ = body[0].(string)
		}
		err = e
	}
	if err == nil && w.answered != nil {
		w.answered(body)
	}
	w.answer <- answer{body, err}
}

// end fails every call that still waits.
func (c *Conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.socket.Close()
	c.cause = fmt.Errorf("the connection to %s %w: %w", c.socket.Name(), ErrLost, err)
	close(c.lost) // before the calls fail: whoever asks again at once must not be given the same connection
	for serial, w := range c.calls {
		w.answer <- answer{err: c.cause}
		delete(c.calls, serial)
	}
}
