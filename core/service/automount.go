package service

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/service/bus"
)

// Automounts returns a Plan that starts, among the automount units that belong to the given mount units, those that are
// active now. Units that are not mounts are ignored.
//
// Automount units are in no service's plan and are never stopped: stopping one would lazily unmount what is mounted
// there, and a program that comes meanwhile would find an empty directory. The caller should hold their mount units
// instead (Hold). An automount unit that has gone down must be started before anything is mounted there, because
// systemd refuses to start it afterwards. What was mounted there is then mounted again by starting its mount unit.
func (s *Systemd) Automounts(ctx context.Context, units []string) (Plan, error) {
	var p Plan
	for _, name := range units {
		if typeOf(name) != "mount" {
			continue
		}
		u, err := s.unit(ctx, AutomountOf(name))
		if err != nil {
			return Plan{}, err
		}
		if !u.isDown() {
			p.Active = append(p.Active, u.name)
		}
	}
	return p, nil
}

// AutomountOf returns the name of the automount unit of a mount unit.
func AutomountOf(mount string) string { return strings.TrimSuffix(mount, ".mount") + ".automount" }

// What returns the source that a mount unit mounts (What=), such as /dev/vg00/dat. It returns an empty string if there
// is no such unit.
func (s *Systemd) What(ctx context.Context, mount string) (string, error) {
	value, err := s.bus.Property(ctx, mount, "Mount", "What")
	if err != nil {
		return "", busFault(ctx, err, "ask systemd about %s", mount)
	}
	what, _ := value.(string)
	return what, nil
}

// MountUnit returns the name of the mount unit of a mount point.
func MountUnit(point string) string { return EscapePath(point) + ".mount" }

// EscapePath escapes a path for use in the name of a unit: see bus.EscapePath.
func EscapePath(path string) string { return bus.EscapePath(path) }
