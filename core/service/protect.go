package service

import (
	"path"
	"slices"
	"strings"
)

// protectedPatterns match units that are never stopped: without them nobody could log in and look, or systemd, the bus
// or LVM could not do what a rollback needs next.
var protectedPatterns = []string{
	"ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "ssh@*.service", "sshd@*.service",
	"getty@*.service", "serial-getty@*.service", "console-getty.service", "user@*.service", "user-runtime-dir@*.service",
	"dbus.service", "dbus.socket", "dbus-broker.service", "systemd-*", "init.scope", "session-*.scope",
	"dm-event.service", "dm-event.socket", "lvm2-*", "multipathd.*", "rewind-*",
}

// Protected reports whether a unit is never stopped, whoever asks for it: ssh, login sessions, the bus, units of
// systemd, LVM and Rewind, and the unit that this process runs in.
func (s *Systemd) Protected(unit string) bool {
	if unit != "" && unit == s.own {
		return true
	}
	return slices.ContainsFunc(protectedPatterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, unit)
		return ok
	})
}

// stoppableTypes are the types of units that can be stopped and started again. A scope cannot be started again. Mounts
// and swaps are not the business of this package.
var stoppableTypes = []string{"service", "socket", "timer", "path", "automount", "target"}

// mayStopUnnamed reports whether a unit may be stopped without having been named, by its type. A target may not,
// because everything that belongs to it would be stopped with it.
func mayStopUnnamed(unit string) bool {
	unitType := typeOf(unit)
	return unitType != "target" && slices.Contains(stoppableTypes, unitType)
}

func typeOf(unit string) string { return unit[strings.LastIndexByte(unit, '.')+1:] }

// isTrigger reports whether a unit is of a type that only starts other units.
func isTrigger(unit string) bool {
	return slices.Contains([]string{"socket", "timer", "path", "automount"}, typeOf(unit))
}

var unitTypes = []string{
	"service", "socket", "timer", "path", "automount", "target", "mount", "swap", "slice", "scope", "device",
}

// fullName returns the full name of a unit for a name that a user wrote: a name without a type is a service, as in
// systemctl(1).
func fullName(name string) string {
	if slices.Contains(unitTypes, typeOf(name)) && strings.Contains(name, ".") {
		return name
	}
	return name + ".service"
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"

// nameProblem says why a full name is not the name of a unit that can be stopped (systemd.unit(5)). It returns an empty
// string if it is one.
func nameProblem(name string) string {
	prefix, _, template := strings.Cut(strings.TrimSuffix(name, "."+typeOf(name)), "@")
	switch {
	case len(name) > 255:
		return "is longer than 255 bytes"
	case strings.Trim(name, nameBytes) != "" ||
		strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(nameBytes, r) }):
		return "has characters that no unit's name has"
	case prefix == "" || strings.HasPrefix(name, "-"):
		return "is not a unit's name"
	case template && strings.HasSuffix(name, "@."+typeOf(name)):
		return "is a template: name its instances"
	case !slices.Contains(stoppableTypes, typeOf(name)):
		return "is a " + typeOf(name) + ", which cannot be stopped and started again like a service"
	}
	return ""
}
