package service

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/dbus"
)

// Hold keeps units from starting until Release of the same name, by a transient unit whose start does not end and that
// every one of them is ordered after. Whoever asks systemd for a start meanwhile waits: a program at an automount
// point, a device that reappears, systemctl. A start that is under way already is waited for. No unit is stopped, and
// systemd's configuration is not reloaded. The hold does not end with the calling process; it ends with the boot.
//
// A hold of this name that is there already is kept as it is. None is made for no units.
func (s *Systemd) Hold(ctx context.Context, name, description string, units []string) error {
	if len(units) == 0 {
		return nil
	}
	sleep := []string{"/bin/sleep", "infinity"}
	_, err := s.bus.startTransient(ctx, name, []property{
		{"Description", description},
		{"Type", "oneshot"}, // counts as being started as long as its program runs
		// That its program is killed in the end is no failure.
		{"ExecStart", dbus.Array{Of: "(sasb)", Items: []any{dbus.Struct{sleep[0], sleep, true}}}},
		{"DefaultDependencies", false}, // which would order it after the mounts
		{"Conflicts", []string{"shutdown.target"}},
		{"Before", append(slices.Clone(units), "shutdown.target")},
		{"CollectMode", "inactive-or-failed"},
	})
	if err != nil && !isBus(err, unitExists) {
		return busFault(ctx, err, "start %s", name)
	}
	for _, name := range units {
		settled := func(u unit) (bool, error) { return u.active != "activating" && u.active != "deactivating", nil }
		if err := s.until(ctx, name, settled); err != nil {
			return err
		}
	}
	return nil
}

// Release ends a hold: what waits for it is started. That there is none is no error.
func (s *Systemd) Release(ctx context.Context, name string) error {
	job, err := s.bus.stop(ctx, name)
	if isBus(err, noSuchUnit) {
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

// OnDevices returns the units that systemd starts on block devices: mounts, swaps, checks of file systems, what opens
// encrypted ones, and services that are bound to a device. A device is given by each path that leads to it, because
// units name it by any of them. A mount that systemd has not loaded, because nobody has asked for it lately, is one of
// them: it may be asked for at any moment.
func (s *Systemd) OnDevices(ctx context.Context, paths []string) ([]string, error) {
	var units, devices []string
	for _, path := range paths {
		device, err := s.unit(ctx, EscapePath(path)+".device")
		if err != nil {
			return nil, err
		}
		devices = append(devices, device.name)
		for _, name := range device.dependents {
			if slices.Contains([]string{"mount", "swap", "service"}, kindOf(name)) && !slices.Contains(units, name) {
				units = append(units, name)
			}
		}
	}
	filed, err := s.bus.filed(ctx, "*.mount", "*.swap")
	if err != nil {
		return nil, busFault(ctx, err, "ask systemd for its mounts")
	}
	for _, name := range filed {
		if strings.Contains(name, "@.") { // a template
			continue
		}
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(units, name) && overlap(u.after, devices) {
			units = append(units, name)
		}
	}
	return units, nil
}

// overlap tells whether two lists have a name in common.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
