package service

import (
	"context"
	"strings"
)

// Automounts plans the start of the automount units of those of the units that are mounts, as far as they are active
// now.
//
// They are not part of any service's plan, and are never stopped: that would detach lazily whatever is mounted there,
// and whoever came meanwhile would find an empty directory. Hold their mount units instead. Should one have gone
// down, it is to be started before anything is mounted there, for systemd refuses it afterwards. What was mounted
// below one is then mounted again by starting its mount unit.
func (s *Systemd) Automounts(ctx context.Context, units []string) (Plan, error) {
	var p Plan
	for _, name := range units {
		if kindOf(name) != "mount" {
			continue
		}
		u, err := s.unit(ctx, AutomountOf(name))
		if err != nil {
			return Plan{}, err
		}
		if !u.down() {
			p.Active = append(p.Active, u.name)
		}
	}
	return p, nil
}

// AutomountOf is the automount unit of a mount unit.
func AutomountOf(mount string) string { return strings.TrimSuffix(mount, ".mount") + ".automount" }

// What returns what a mount unit mounts, such as /dev/vg00/dat; empty if there is no such unit.
func (s *Systemd) What(ctx context.Context, mount string) (string, error) {
	value, err := s.bus.property(ctx, mount, "Mount", "What")
	if err != nil {
		return "", busFault(ctx, err, "ask systemd about %s", mount)
	}
	what, _ := value.(string)
	return what, nil
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
