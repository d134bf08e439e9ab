package dbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Values and field codes in the header of a message (D-Bus specification, Message Format).
const (
	protocolVersion = 1

	typeCall   = 1
	typeReturn = 2
	typeError  = 3
	typeSignal = 4

	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldError       = 4
	fieldReplySerial = 5 // serial of the call that is answered
	fieldSignature   = 8
)

// The limits of the specification: the bytes of a message, and how deep types and values may be nested.
const (
	maxMessage = 128 << 20
	maxDepth   = 64
)

// message is a message that came in. Its body is not decoded yet.
type message struct {
	kind   byte
	fields map[byte]any
	body   []byte
}

// text returns a header field that is a string, or an empty string if the field is missing.
func (m message) text(field byte) string { s, _ := m.fields[field].(string); return s }

// readMessage reads one message.
func readMessage(r io.Reader) (message, error) {
	var header [16]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return message{}, err
	}
	if header[0] != 'l' || header[3] != protocolVersion {
		return message{}, errors.New("no D-Bus message of this machine's byte order")
	}
	body := int64(binary.LittleEndian.Uint32(header[4:]))
	fields := int64(binary.LittleEndian.Uint32(header[12:]))
	padded := (fields + 7) &^ 7
	if padded+body > maxMessage {
		return message{}, fmt.Errorf("a message of %d bytes", padded+body)
	}
	remainder := make([]byte, padded+body)
	if _, err := io.ReadFull(r, remainder); err != nil {
		return message{}, err
	}
	return parseMessage(header[1], header[12:], remainder[:padded], remainder[padded:])
}

// parseMessage decodes the header fields of a message. In the message their length is at offset 12, and they follow it.
func parseMessage(kind byte, length, fields, body []byte) (message, error) {
	m := message{kind: kind, fields: map[byte]any{}, body: body}
	d := decoder{buf: append(append(make([]byte, 12, 16+len(fields)), length...), fields...), offset: 12}
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

// values decodes the body.
func (m message) values() ([]any, error) {
	var values []any
	d := decoder{buf: m.body}
	for types := m.text(fieldSignature); types != ""; {
		first, rest, err := cutType(types, 0)
		if err != nil {
			return nil, err
		}
		v, err := d.value(first, 0)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		values, types = append(values, v), rest
	}
	return values, nil
}

// cutType splits a signature after its first complete type.
func cutType(signature string, depth int) (first, rest string, err error) {
	badSignature := fmt.Errorf("signature %q", signature)
	if signature == "" || depth > maxDepth {
		return "", "", badSignature
	}
	switch signature[0] {
	case 'a':
		element, _, err := cutType(signature[1:], depth+1)
		return signature[:min(len(signature), 1+len(element))], signature[min(len(signature), 1+len(element)):], err
	case '(', '{':
		end := byte(')')
		if signature[0] == '{' {
			end = '}'
		}
		for rest = signature[1:]; rest != ""; {
			if rest[0] == end {
				n := len(signature) - len(rest) + 1
				return signature[:n], signature[n:], nil
			}
			if _, rest, err = cutType(rest, depth+1); err != nil {
				return "", "", err
			}
		}
		return "", "", badSignature
	case 'y', 'b', 'n', 'q', 'i', 'u', 'x', 't', 'd', 's', 'o', 'g', 'v', 'h':
		return signature[:1], signature[1:], nil
	}
	return "", "", badSignature
}

// decoder unmarshals values. A variant becomes the value in it. A structure and an entry of a dictionary become []any.
// An array of strings or paths becomes []string, an array of dictionary entries with a string and a variant becomes
// map[string]any, and any other array []any.
type decoder struct {
	buf    []byte
	offset int
}

var errShort = errors.New("it ends too early")

// takeAligned skips the padding to the alignment and returns the n bytes after it.
func (d *decoder) takeAligned(n, alignment int) ([]byte, error) {
	start := (d.offset + alignment - 1) / alignment * alignment
	if n < 0 || start > len(d.buf) || n > len(d.buf)-start {
		return nil, errShort
	}
	d.offset = start + n
	return d.buf[start:d.offset], nil
}

func (d *decoder) uint32() (uint32, error) {
	b, err := d.takeAligned(4, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// text reads a string of n bytes and the zero byte after it.
func (d *decoder) text(n uint32) (string, error) {
	if n > maxMessage {
		return "", errShort
	}
	b, err := d.takeAligned(int(n)+1, 1)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// value reads one value. signature is one complete type.
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
		n, err := d.takeAligned(1, 1)
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
	b, err := d.takeAligned(size, size)
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
	n, err := d.takeAligned(1, 1)
	if err != nil {
		return nil, err
	}
	types, err := d.text(uint32(n[0]))
	if err != nil {
		return nil, err
	}
	first, rest, err := cutType(types, 0)
	if err != nil || rest != "" {
		return nil, fmt.Errorf("a variant of signature %q", types)
	}
	return d.value(first, depth+1)
}

func (d *decoder) structure(types string, depth int) (any, error) {
	if _, err := d.takeAligned(0, 8); err != nil {
		return nil, err
	}
	parts := []any{}
	for types != "" {
		first, rest, err := cutType(types, 0)
		if err != nil {
			return nil, err
		}
		v, err := d.value(first, depth+1)
		if err != nil {
			return nil, err
		}
		parts, types = append(parts, v), rest
	}
	return parts, nil
}

func (d *decoder) array(element string, depth int) (any, error) {
	length, err := d.uint32()
	if err != nil {
		return nil, err
	}
	if _, err := d.takeAligned(0, align(element)); err != nil || int64(length) > int64(len(d.buf)-d.offset) {
		return nil, errShort
	}
	items := []any{}
	for end := d.offset + int(length); d.offset < end; {
		before := d.offset
		v, err := d.value(element, depth+1)
		if err != nil {
			return nil, err
		}
		if d.offset > end || d.offset == before {
			return nil, errors.New("an array's length is wrong")
		}
		items = append(items, v)
	}
	return simplify(element, items), nil
}

// simplify turns the kinds of arrays that systemd often sends into a []string or a map[string]any.
func simplify(element string, items []any) any {
	switch element {
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
