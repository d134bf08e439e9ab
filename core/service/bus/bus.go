// Package bus has the calls to systemd that package service needs. Dial makes them over systemd's own socket;
// package servicetest answers them without a systemd, for tests.
package bus

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/service/dbus"
)

// Bus has the calls to systemd. Start, Stop and StartTransient queue a job and return at once. The result of the job is
// sent to the channel, unless the connection is lost before.
type Bus interface {
	UnitProperties(ctx context.Context, name string) (map[string]any, error) // loads the unit if necessary
	Property(ctx context.Context, name, unitType, property string) (any, error)
	JobType(ctx context.Context, name string) (string, error) // such as start, restart or stop; empty: no job
	LoadedUnits(ctx context.Context, pattern string) ([]string, error)
	UnitFiles(ctx context.Context, patterns ...string) ([]string, error) // units that have a unit file, loaded or not
	Start(ctx context.Context, name, mode string) (<-chan string, error)
	Stop(ctx context.Context, name string) (<-chan string, error)
	StartTransient(ctx context.Context, name string, settings []Setting) (<-chan string, error)
	ResetFailed(ctx context.Context, name string) error
	Reload(ctx context.Context) error
	// Watch signals every change of the unit, and perhaps more often, until end is called.
	Watch(ctx context.Context, name string) (changed <-chan struct{}, end func(), err error)
	Disconnect() // the next call connects again
	Close()
}

// The modes of a job (org.freedesktop.systemd1(5), StartUnit). With WithDependencies a start also starts the units that
// the unit pulls in, such as a database cluster that its administrator has stopped, and a stop also stops targets. With
// UnitOnly the job is for this unit alone, so that exactly the units of the plan are started and stopped. The order of
// the units counts in both modes.
const (
	UnitOnly         = "ignore-requirements"
	WithDependencies = "replace"
)

// Setting is a property of a transient unit.
type Setting struct {
	Name  string
	Value any // a value that package dbus can send
}

// Names of D-Bus errors: systemd's (systemd, src/libsystemd/sd-bus/bus-common-errors.h) and one of D-Bus itself.
const (
	NoSuchUnit   = "org.freedesktop.systemd1.NoSuchUnit"
	UnitExists   = "org.freedesktop.systemd1.UnitExists"
	AccessDenied = "org.freedesktop.DBus.Error.AccessDenied"
)

// IsError reports whether err is the D-Bus error of this name.
func IsError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
