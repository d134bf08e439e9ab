package dbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// roundTrip returns the values that a receiver decodes when these values are sent.
func roundTrip(t *testing.T, args ...any) []any {
	t.Helper()
	m, err := readMessage(bytes.NewReader(encodeCall(7, "/a/b", "org.x", "Do", args)))
	if err != nil {
		t.Fatal(err)
	}
	if m.kind != typeCall || m.text(fieldPath) != "/a/b" || m.text(fieldInterface) != "org.x" ||
		m.text(fieldMember) != "Do" {
		t.Errorf("header %+v", m)
	}
	body, err := m.values()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestValuesArriveAsTheyWereSent(t *testing.T) {
	commands := Array{"(sasb)", []any{Struct{"/bin/x", []string{"/bin/x", "journey"}, true}}}
	got := roundTrip(t, "ä", true, uint32(5), uint64(1<<40), []string{"a", ""}, []string{},
		Array{"(sv)", []any{Struct{"ExecStart", Variant{commands}}, Struct{"Limit", Variant{uint64(9)}}}},
		Array{Of: "(sa(sv))"}, Object("/o"))
	want := []any{"ä", true, uint32(5), uint64(1 << 40), []string{"a", ""}, []string{},
		[]any{
			[]any{"ExecStart", []any{[]any{"/bin/x", []string{"/bin/x", "journey"}, true}}},
			[]any{"Limit", uint64(9)},
		}, []any{}, "/o"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The bytes include padding: every number is aligned to its own size.
func TestEveryNumberTypeIsDecoded(t *testing.T) {
	d := decoder{buf: []byte{
		1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
		0, 0, 0, 0, 0, 0, 0xf0, 0x3f,
	}}
	var got []any
	for _, types := range []string{"y", "n", "q", "i", "h", "t", "x", "d"} {
		v, err := d.value(types, 0)
		if err != nil {
			t.Fatal(types, err)
		}
		got = append(got, v)
	}
	want := []any{byte(1), int16(2), uint16(3), int32(4), uint32(5), uint64(6), int64(-1), 1.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPropertiesAreDecodedToAMap(t *testing.T) {
	var e encoder
	e.array("{sv}", []any{Struct{"Id", Variant{"a.service"}}, Struct{"Job", Variant{Struct{uint32(3), Object("/job/3")}}}})
	got, err := (&decoder{buf: e.buf}).value("a{sv}", 0)
	want := map[string]any{"Id": "a.service", "Job": []any{uint32(3), "/job/3"}}
	if diff := cmp.Diff(any(want), got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestCutType(t *testing.T) {
	for in, want := range map[string]string{
		"s": "s", "asu": "as", "a(sasb)t": "a(sasb)", "(u(o))s": "(u(o))", "a{sv}": "a{sv}",
	} {
		if one, rest, err := cutType(in, 0); one != want || one+rest != in || err != nil {
			t.Errorf("%s: %q %q %v", in, one, rest, err)
		}
	}
	for _, in := range []string{"", "a", "(s", "{", "z", ")", strings.Repeat("a", 100) + "s"} {
		if _, _, err := cutType(in, 0); err == nil {
			t.Errorf("%q is a signature", in)
		}
	}
}

// fakeSystemd plays systemd at the other end of a socket.
type fakeSystemd struct {
	t      *testing.T
	socket *os.File
	in     *bufio.Reader
}

func connectedPair(t *testing.T) (*os.File, *fakeSystemd) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	client, server := os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, &fakeSystemd{t, server, bufio.NewReader(server)}
}

func (s *fakeSystemd) expect(prefix string) {
	s.t.Helper()
	line, err := s.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		s.t.Errorf("got %q, %v, want %q", line, err, prefix)
	}
}

func (s *fakeSystemd) authenticate() {
	s.t.Helper()
	s.expect("\x00AUTH EXTERNAL ")
	s.write("OK 1234\r\n")
	s.expect("BEGIN")
}

func (s *fakeSystemd) write(text string) {
	if _, err := s.socket.WriteString(text); err != nil {
		s.t.Error(err)
	}
}

// send sends a message with these header fields and values.
func (s *fakeSystemd) send(kind byte, fields []any, args ...any) {
	var body encoder
	types := ""
	for _, a := range args {
		types += signature(a)
		body.value(a)
	}
	fields = append(fields, Struct{byte(fieldSignature), Variant{signatureValue(types)}})
	header := encoder{[]byte{'l', kind, 0, protocolVersion}}
	header.uint32(uint32(len(body.buf)))
	header.uint32(99)
	header.array("(yv)", fields)
	header.pad(8)
	s.write(string(append(header.buf, body.buf...)))
}

// readCall reads a call and returns its serial number.
func (s *fakeSystemd) readCall() uint32 {
	header, err := s.in.Peek(12)
	if err != nil {
		s.t.Error(err)
		return 0
	}
	serial := binary.LittleEndian.Uint32(header[8:])
	if _, err := readMessage(s.in); err != nil {
		s.t.Error(err)
	}
	return serial
}

func replyTo(serial uint32) []any { return []any{Struct{byte(fieldReplySerial), Variant{serial}}} }

func TestCallsSignalsAndErrorsArriveInOrder(t *testing.T) {
	client, systemd := connectedPair(t)
	heard := make(chan string, 10)
	played := make(chan struct{})
	go func() {
		defer close(played)
		systemd.authenticate()
		serial := systemd.readCall()
		systemd.send(typeReturn, replyTo(serial), Object("/job/1"))
		systemd.send(typeSignal, []any{
			Struct{byte(fieldPath), Variant{Object("/p")}}, Struct{byte(fieldMember), Variant{"JobRemoved"}},
		}, uint32(1))
		serial = systemd.readCall()
		systemd.send(typeError, append(replyTo(serial), Struct{byte(fieldError), Variant{"org.x.No"}}), "no such unit")
		systemd.readCall()
		systemd.socket.Close()
	}()
	c, err := newConn(t.Context(), client, func(s Signal) { heard <- s.Member })
	if err != nil {
		t.Fatal(err)
	}
	body, err := c.Do(t.Context(), Call{
		Path: "/", Interface: "i", Member: "m", Args: []any{"x"}, Answered: func([]any) { heard <- "answered" },
	})
	if diff := cmp.Diff([]any{"/job/1"}, body); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if a, b := <-heard, <-heard; a != "answered" || b != "JobRemoved" {
		t.Errorf("heard %s before %s", a, b)
	}
	_, err = c.Do(t.Context(), Call{Path: "/", Interface: "i", Member: "m"})
	if e := (Error{}); !errors.As(err, &e) || e.Name != "org.x.No" || err.Error() != "no such unit" {
		t.Errorf("%#v", err)
	}
	_, err = c.Do(t.Context(), Call{Path: "/", Interface: "i", Member: "m"})
	if err == nil || !strings.Contains(err.Error(), "is lost") {
		t.Errorf("the connection ends: %v", err)
	}
	<-c.Lost()
	if _, err = c.Do(t.Context(), Call{Path: "/", Interface: "i", Member: "m"}); err == nil {
		t.Error("a call over a lost connection")
	}
	<-played
}

func TestCallWithoutAnswerEndsWithItsContext(t *testing.T) {
	client, systemd := connectedPair(t)
	welcomed := make(chan struct{})
	go func() {
		defer close(welcomed)
		systemd.authenticate()
	}()
	c, err := newConn(t.Context(), client, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-welcomed
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Do(ctx, Call{Path: "/", Interface: "i", Member: "m"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// systemd does not handle a call that it reads together with BEGIN. So BEGIN must be sent before systemd's answer, and
// no call before it.
func TestBeginIsSentInTheFirstWrite(t *testing.T) {
	client, systemd := connectedPair(t)
	go func() {
		first := make([]byte, 4096)
		n, err := systemd.socket.Read(first)
		text := string(first[:n])
		if err != nil || !strings.HasPrefix(text, "\x00AUTH EXTERNAL ") ||
			!strings.HasSuffix(text, "\r\nBEGIN\r\n") {
			t.Errorf("%q %v", text, err)
		}
		systemd.write("OK 1234\r\n")
	}()
	c, err := newConn(t.Context(), client, func(Signal) {})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestDialReportsARejectedAuthentication(t *testing.T) {
	client, systemd := connectedPair(t)
	go func() {
		systemd.expect("\x00AUTH")
		systemd.write("REJECTED EXTERNAL\r\n")
	}()
	if _, err := newConn(t.Context(), client, func(Signal) {}); err == nil || !strings.Contains(err.Error(), "REJECTED") {
		t.Error(err)
	}
}

func TestDialReportsAMissingSocket(t *testing.T) {
	if _, err := Dial(t.Context(), t.TempDir()+"/none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Any input gives a message or an error, and a message has a body that fits its signature.
func FuzzRead(f *testing.F) {
	f.Add(encodeCall(1, "/a", "i", "m", []any{
		"s", uint32(1), []string{"x"}, Array{"(sv)", []any{Struct{"n", Variant{true}}}},
	}))
	f.Add(encodeCall(2, "/", "i", "m", nil))
	f.Add([]byte("l\x04\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 16 && binary.LittleEndian.Uint32(data[4:])>>16+binary.LittleEndian.Uint32(data[12:])>>16 > 0 {
			return // a long message would only take memory and then be too short
		}
		m, err := readMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		body, err := m.values()
		if err == nil && (len(body) > 0) != (m.text(fieldSignature) != "") {
			t.Errorf("signature %q, body %v", m.text(fieldSignature), body)
		}
	})
}
