package dbus

import (
	"encoding/binary"
	"fmt"
)

// Types of values that can be sent, besides byte, bool, uint32, uint64, string and []string.
type (
	// Object is the path of an object.
	Object string
	// Struct is a structure: values of any types.
	Struct []any
	// Array is an array of values. Each has the signature Of.
	Array struct {
		Of    string
		Items []any
	}
	// Variant is a value that is sent together with its signature.
	Variant struct{ Value any }
)

// signature returns the type of v as a D-Bus signature. It panics for a type that cannot be sent, which is a defect of
// the caller.
func signature(v any) string {
	switch v := v.(type) {
	case byte:
		return "y"
	case bool:
		return "b"
	case uint32:
		return "u"
	case uint64:
		return "t"
	case string:
		return "s"
	case Object:
		return "o"
	case []string:
		return "as"
	case Array:
		return "a" + v.Of
	case Variant:
		return "v"
	case Struct:
		s := "("
		for _, e := range v {
			s += signature(e)
		}
		return s + ")"
	}
	panic(fmt.Sprintf("dbus: a %T cannot be sent", v))
}

// align returns the alignment, in bytes, of the first type of a signature.
func align(signature string) int {
	if signature == "" {
		return 1
	}
	switch signature[0] {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 's', 'o', 'a', 'h':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1 // y, g, v
}

// encoder marshals values in little-endian byte order.
type encoder struct{ buf []byte }

func (e *encoder) pad(alignment int) {
	for len(e.buf)%alignment != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) uint32(n uint32) {
	e.pad(4)
	e.buf = binary.LittleEndian.AppendUint32(e.buf, n)
}

func (e *encoder) text(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

// signature writes a signature. Its length is a single byte.
func (e *encoder) signature(s string) {
	e.buf = append(e.buf, byte(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

func (e *encoder) value(v any) {
	switch v := v.(type) {
	case byte:
		e.buf = append(e.buf, v)
	case bool:
		if v {
			e.uint32(1)
			return
		}
		e.uint32(0)
	case uint32:
		e.uint32(v)
	case uint64:
		e.pad(8)
		e.buf = binary.LittleEndian.AppendUint64(e.buf, v)
	case string:
		e.text(v)
	case Object:
		e.text(string(v))
	case Variant:
		e.variant(v)
	case Struct:
		e.pad(8)
		for _, part := range v {
			e.value(part)
		}
	case []string:
		items := make([]any, len(v))
		for i, s := range v {
			items[i] = s
		}
		e.array("s", items)
	case Array:
		e.array(v.Of, v.Items)
	default:
		signature(v) // panics
	}
}

func (e *encoder) variant(v Variant) {
	if s, ok := v.Value.(signatureValue); ok {
		e.signature("g")
		e.signature(string(s))
		return
	}
	e.signature(signature(v.Value))
	e.value(v.Value)
}

// array writes the length of the elements in bytes, without the padding before the first one, and then the elements.
func (e *encoder) array(element string, items []any) {
	e.uint32(0)
	lengthEnd := len(e.buf)
	e.pad(align(element))
	first := len(e.buf)
	for _, item := range items {
		e.value(item)
	}
	binary.LittleEndian.PutUint32(e.buf[lengthEnd-4:], uint32(len(e.buf)-first))
}

// signatureValue is a signature that is sent as a value. Only headers have one.
type signatureValue string

// encodeCall returns the bytes of a method call.
func encodeCall(serial uint32, path, iface, member string, args []any) []byte {
	var body encoder
	types := ""
	for _, a := range args {
		types += signature(a)
		body.value(a)
	}
	fields := []any{
		Struct{byte(fieldPath), Variant{Object(path)}},
		Struct{byte(fieldInterface), Variant{iface}},
		Struct{byte(fieldMember), Variant{member}},
	}
	if types != "" {
		fields = append(fields, Struct{byte(fieldSignature), Variant{signatureValue(types)}})
	}
	header := encoder{[]byte{'l', typeCall, 0, protocolVersion}}
	header.uint32(uint32(len(body.buf)))
	header.uint32(serial)
	header.array("(yv)", fields)
	header.pad(8)
	return append(header.buf, body.buf...)
}
