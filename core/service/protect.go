package service

import (
	"path"
	"slices"
	"strings"
)

// protected are units that are never stopped: without them nobody could log in
// and look, or systemd, the bus or LVM itself could not do what comes next.
var protected = []string{
	"ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "ssh@*.service", "sshd@*.service",
	"getty@*.service", "serial-getty@*.service", "console-getty.service", "user@*.service", "user-runtime-dir@*.service",
	"dbus.service", "dbus.socket", "dbus-broker.service", "systemd-*", "init.scope", "session-*.scope",
	"dm-event.service", "dm-event.socket", "lvm2-*", "multipathd.*", "rewind-*",
}

// Protected tells whether a unit is never stopped, whoever asks: ssh, login
// sessions, the bus, systemd's and LVM's own, and the unit we run in.
func (s *Systemd) Protected(unit string) bool {
	if unit != "" && unit == s.own {
		return true
	}
	return slices.ContainsFunc(protected, func(pattern string) bool {
		ok, _ := path.Match(pattern, unit)
		return ok
	})
}

// stoppable are the types of unit that can be stopped and started again. A
// scope cannot be started; mounts and swaps are not for this package to touch.
var stoppable = []string{"service", "socket", "timer", "path", "automount", "target"}

// stops says whether a unit is of a type that is stopped although nobody named it: a target is not, since all that it
// holds together would go with it.
func stops(unit string) bool {
	kind := kindOf(unit)
	return kind != "target" && slices.Contains(stoppable, kind)
}

func kindOf(unit string) string { return unit[strings.LastIndexByte(unit, '.')+1:] }

// trigger tells whether a unit does nothing but start others.
func trigger(unit string) bool {
	return slices.Contains([]string{"socket", "timer", "path", "automount"}, kindOf(unit))
}

var kinds = []string{
	"service", "socket", "timer", "path", "automount", "target", "mount", "swap", "slice", "scope", "device",
}

// fullName makes a unit's name of what a user writes: without a type it is a
// service, as systemctl(1) has it.
func fullName(name string) string {
	if slices.Contains(kinds, kindOf(name)) && strings.Contains(name, ".") {
		return name
	}
	return name + ".service"
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"

// wrongName says why systemd would not take a full name (systemd.unit(5)),
// empty if it would.
func wrongName(name string) string {
	prefix, _, template := strings.Cut(strings.TrimSuffix(name, "."+kindOf(name)), "@")
	switch {
	case len(name) > 255:
		return "is longer than 255 bytes"
	case strings.Trim(name, nameBytes) != "" || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(nameBytes, r) }):
		return "has characters that no unit's name has"
	case prefix == "" || strings.HasPrefix(name, "-"):
		return "is not a unit's name"
	case template && strings.HasSuffix(name, "@."+kindOf(name)):
		return "is a template: name its instances"
	case !slices.Contains(stoppable, kindOf(name)):
		return "is a " + kindOf(name) + ", which cannot be stopped and started again like a service"
	}
	return ""
}
