package service

import (
	"context"
	"slices"
	"strings"
)

// Automounts plans the stop of the automount units of mount points, as far as
// they are active: they would mount a volume again at the first access.
//
// They are not part of any service's plan, because their stop detaches lazily
// whatever is mounted there: stop them after the point was unmounted, and start
// them before anything is mounted there, for systemd refuses it afterwards. What
// was mounted is then mounted again by starting MountUnit.
func (s *Systemd) Automounts(ctx context.Context, points []string) (Plan, error) {
	var p Plan
	for _, point := range points {
		name := EscapePath(point) + ".automount"
		u, err := s.unit(ctx, name)
		if err != nil {
			return Plan{}, err
		}
		if !u.down() {
			p.Named = append(p.Named, u.name)
		}
	}
	p.Stop = slices.Clone(p.Named)
	p.Active = slices.Clone(p.Named)
	return p, nil
}

// MountUnit is the unit that systemd makes of a mount point.
func MountUnit(point string) string { return EscapePath(point) + ".mount" }

// EscapePath makes a path part of a unit's name, as systemd-escape --path does
// (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
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
		case plain(c) && !(i == 0 && c == '.'):
			b.WriteByte(c)
		default:
			const hex = "0123456789abcdef"
			b.WriteString(`\x` + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '.'
}
