package service

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/dbus"
)

// Hold keeps units from starting until Release is called with the same name. It starts a transient unit whose start
// does not end, and that all the units are ordered after. Any request to systemd to start one of them waits meanwhile:
// by a program at an automount point, by a device that reappears, or by systemctl. Hold waits for a start that is
// already under way. No unit is stopped, and systemd's configuration is not reloaded. The hold does not end with the
// calling process, but it ends when the server shuts down.
//
// If there is a hold of this name already, it stays as it is. If units is empty, no hold is made.
func (s *Systemd) Hold(ctx context.Context, name, description string, units []string) error {
	if len(units) == 0 {
		return nil
	}
	sleep := []string{"/bin/sleep", "infinity"}
	_, err := s.bus.StartTransient(ctx, name, []bus.Setting{
		{Name: "Description", Value: description},
		{Name: "Type", Value: "oneshot"}, // the unit counts as starting while its program runs
		// The "true" says that a failure of the program does not count: Release kills it.
		{Name: "ExecStart", Value: dbus.Array{Of: "(sasb)", Items: []any{dbus.Struct{sleep[0], sleep, true}}}},
		{Name: "DefaultDependencies", Value: false}, // default dependencies would order the hold after the mounts
		{Name: "Conflicts", Value: []string{"shutdown.target"}},
		{Name: "Before", Value: append(slices.Clone(units), "shutdown.target")},
		{Name: "CollectMode", Value: "inactive-or-failed"},
	})
	if err != nil && !bus.IsError(err, bus.UnitExists) {
		return busFault(ctx, err, "start %s", name)
	}
	for _, name := range units {
		isSteady := func(u unit) (bool, error) { return u.active != "activating" && u.active != "deactivating", nil }
		if err := s.waitFor(ctx, name, isSteady); err != nil {
			return err
		}
	}
	return nil
}

// Release ends a hold. Requests to start its units go on. It is no error if there is no such hold.
func (s *Systemd) Release(ctx context.Context, name string) error {
	job, err := s.bus.Stop(ctx, name)
	if bus.IsError(err, bus.NoSuchUnit) {
		return nil
	}
	if err != nil {
		return busFault(ctx, err, "stop %s", name)
	}
	if _, err := s.jobResult(ctx, name, job); err != nil {
		return fault.New(fault.Of(err).Code, "waiting for %s to stop: %w", name, err)
	}
	return nil
}

// OnDevices returns the units that systemd starts on block devices: mounts, swaps, file system checks, services that
// open encrypted devices, and services that are bound to a device. paths must have every path of each device, because
// units may name it by any of them. A mount that systemd has not loaded, because nothing has asked for it lately, is
// included: it may be started at any moment.
func (s *Systemd) OnDevices(ctx context.Context, paths []string) ([]string, error) {
	var units, devices []string
	for _, path := range paths {
		device, err := s.unit(ctx, EscapePath(path)+".device")
		if err != nil {
			return nil, err
		}
		devices = append(devices, device.name)
		for _, name := range device.dependents {
			if slices.Contains([]string{"mount", "swap", "service"}, typeOf(name)) && !slices.Contains(units, name) {
				units = append(units, name)
			}
		}
	}
	fromFiles, err := s.bus.UnitFiles(ctx, "*.mount", "*.swap")
	if err != nil {
		return nil, busFault(ctx, err, "ask systemd for its mounts")
	}
	for _, name := range fromFiles {
		if strings.Contains(name, "@.") { // a template is no unit
			continue
		}
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(units, name) && intersects(u.after, devices) {
			units = append(units, name)
		}
	}
	return units, nil
}

// intersects reports whether two lists have a name in common.
func intersects(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
