package bus

import "strings"

// unitPath returns the object path of a unit: any byte that is not an ASCII letter or digit, and a digit at the
// beginning, is written as _ and two hexadecimal digits.
func unitPath(name string) string {
	const digits = "0123456789abcdef"
	path := []byte(managerPath + "/unit/")
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			path = append(path, c)
			continue
		}
		path = append(path, '_', digits[c>>4], digits[c&15])
	}
	return string(path)
}

// EscapePath escapes a path for use in the name of a unit, as systemd-escape --path does (systemd.unit(5), "String
// Escaping for Inclusion in Unit Names").
func EscapePath(path string) string {
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	if len(parts) == 0 {
		return "-"
	}
	var b strings.Builder
	for i, c := range []byte(strings.Join(parts, "/")) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case isPlainByte(c) && !(i == 0 && c == '.'):
			b.WriteByte(c)
		default:
			const hex = "0123456789abcdef"
			b.WriteString(`\x` + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}

// isPlainByte reports whether a byte needs no escape in the name of a unit.
func isPlainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '.'
}
