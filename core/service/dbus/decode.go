package dbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// The parts of a message (D-Bus specification, Message Format).
const (
	protocol = 1

	typeCall   = 1
	typeReturn = 2
	typeError  = 3
	typeSignal = 4

	fieldPath      = 1
	fieldInterface = 2
	fieldMember    = 3
	fieldError     = 4
	fieldReply     = 5 // serial of the call that is answered
	fieldSignature = 8
)

// The specification's limits; what is larger or deeper is no D-Bus.
const (
	maxMessage = 128 << 20
	maxDepth   = 64
)

// message is what came in, its body as it came.
type message struct {
	kind   byte
	fields map[byte]any
	body   []byte
}

func (m message) text(field byte) string { s, _ := m.fields[field].(string); return s }

// read reads one message.
func read(r io.Reader) (message, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	if head[0] != 'l' || head[3] != protocol {
		return message{}, errors.New("no D-Bus message of this machine's byte order")
	}
	body := int64(binary.LittleEndian.Uint32(head[4:]))
	fields := int64(binary.LittleEndian.Uint32(head[12:]))
	padded := (fields + 7) &^ 7
	if padded+body > maxMessage {
		return message{}, fmt.Errorf("a message of %d bytes", padded+body)
	}
	rest := make([]byte, padded+body)
	if _, err := io.ReadFull(r, rest); err != nil {
		return message{}, err
	}
	return parse(head[1], head[12:], rest[:padded], rest[padded:])
}

// parse reads the header's fields, which follow their length at offset 12.
func parse(kind byte, length, fields, body []byte) (message, error) {
	m := message{kind: kind, fields: map[byte]any{}, body: body}
	d := decoder{buf: append(append(make([]byte, 12, 16+len(fields)), length...), fields...), at: 12}
	list, err := d.value("a(yv)", 0)
	if err != nil {
		return m, fmt.Errorf("header: %w", err)
	}
	for _, f := range list.([]any) {
		pair := f.([]any)
		m.fields[pair[0].(byte)] = pair[1]
	}
	return m, nil
}

// values reads the body.
func (m message) values() ([]any, error) {
	var values []any
	d := decoder{buf: m.body}
	for types := m.text(fieldSignature); types != ""; {
		one, rest, err := cut(types, 0)
		if err != nil {
			return nil, err
		}
		v, err := d.value(one, 0)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		values, types = append(values, v), rest
	}
	return values, nil
}

// cut splits a signature after its first complete type.
func cut(s string, depth int) (one, rest string, err error) {
	bad := fmt.Errorf("signature %q", s)
	if s == "" || depth > maxDepth {
		return "", "", bad
	}
	switch s[0] {
	case 'a':
		of, _, err := cut(s[1:], depth+1)
		return s[:min(len(s), 1+len(of))], s[min(len(s), 1+len(of)):], err
	case '(', '{':
		end := byte(')')
		if s[0] == '{' {
			end = '}'
		}
		for rest = s[1:]; rest != ""; {
			if rest[0] == end {
				n := len(s) - len(rest) + 1
				return s[:n], s[n:], nil
			}
			if _, rest, err = cut(rest, depth+1); err != nil {
				return "", "", err
			}
		}
		return "", "", bad
	case 'y', 'b', 'n', 'q', 'i', 'u', 'x', 't', 'd', 's', 'o', 'g', 'v', 'h':
		return s[:1], s[1:], nil
	}
	return "", "", bad
}

// decoder unmarshals values. A variant becomes what is in it, a structure and a dictionary's entry []any; an array of
// strings or paths []string, one of pairs of a string and a variant map[string]any, any other []any.
type decoder struct {
	buf []byte
	at  int
}

var errShort = errors.New("it ends too early")

// take returns the next n bytes after padding to the alignment.
func (d *decoder) take(n, to int) ([]byte, error) {
	start := (d.at + to - 1) / to * to
	if n < 0 || start > len(d.buf) || n > len(d.buf)-start {
		return nil, errShort
	}
	d.at = start + n
	return d.buf[start:d.at], nil
}

func (d *decoder) uint32() (uint32, error) {
	b, err := d.take(4, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// text reads a string of n bytes and the zero after it.
func (d *decoder) text(n uint32) (string, error) {
	if n > maxMessage {
		return "", errShort
	}
	b, err := d.take(int(n)+1, 1)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// value reads one value of a complete type.
func (d *decoder) value(signature string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deeply")
	}
	switch signature[0] {
	case 's', 'o':
		n, err := d.uint32()
		if err != nil {
			return nil, err
		}
		return d.text(n)
	case 'g':
		n, err := d.take(1, 1)
		if err != nil {
			return nil, err
		}
		return d.text(uint32(n[0]))
	case 'v':
		return d.variant(depth)
	case 'a':
		return d.array(signature[1:], depth)
	case '(', '{':
		return d.structure(signature[1:len(signature)-1], depth)
	}
	size := align(signature)
	b, err := d.take(size, size)
	if err != nil {
		return nil, err
	}
	return number(signature[0], b), nil
}

func number(kind byte, b []byte) any {
	switch kind {
	case 'y':
		return b[0]
	case 'b':
		return binary.LittleEndian.Uint32(b) != 0
	case 'n':
		return int16(binary.LittleEndian.Uint16(b))
	case 'q':
		return binary.LittleEndian.Uint16(b)
	case 'i':
		return int32(binary.LittleEndian.Uint32(b))
	case 'x':
		return int64(binary.LittleEndian.Uint64(b))
	case 't':
		return binary.LittleEndian.Uint64(b)
	case 'd':
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	return binary.LittleEndian.Uint32(b) // u, h
}

func (d *decoder) variant(depth int) (any, error) {
	n, err := d.take(1, 1)
	if err != nil {
		return nil, err
	}
	types, err := d.text(uint32(n[0]))
	if err != nil {
		return nil, err
	}
	one, rest, err := cut(types, 0)
	if err != nil || rest != "" {
		return nil, fmt.Errorf("a variant of signature %q", types)
	}
	return d.value(one, depth+1)
}

func (d *decoder) structure(types string, depth int) (any, error) {
	if _, err := d.take(0, 8); err != nil {
		return nil, err
	}
	parts := []any{}
	for types != "" {
		one, rest, err := cut(types, 0)
		if err != nil {
			return nil, err
		}
		v, err := d.value(one, depth+1)
		if err != nil {
			return nil, err
		}
		parts, types = append(parts, v), rest
	}
	return parts, nil
}

func (d *decoder) array(of string, depth int) (any, error) {
	length, err := d.uint32()
	if err != nil {
		return nil, err
	}
	if _, err := d.take(0, align(of)); err != nil || int64(length) > int64(len(d.buf)-d.at) {
		return nil, errShort
	}
	items := []any{}
	for end := d.at + int(length); d.at < end; {
		before := d.at
		v, err := d.value(of, depth+1)
		if err != nil {
			return nil, err
		}
		if d.at > end || d.at == before {
			return nil, errors.New("an array's length is wrong")
		}
		items = append(items, v)
	}
	return plain(of, items), nil
}

// plain gives the arrays that systemd's answers consist of Go's own types.
func plain(of string, items []any) any {
	switch of {
	case "s", "o":
		list := make([]string, len(items))
		for i, v := range items {
			list[i] = v.(string)
		}
		return list
	case "{sv}":
		table := make(map[string]any, len(items))
		for _, v := range items {
			entry := v.([]any)
			table[entry[0].(string)] = entry[1]
		}
		return table
	}
	return items
}
