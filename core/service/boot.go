package service

import (
	"context"
	"slices"
	"strings"
)

// afterMounts are what a unit is ordered after that starts when the local file systems are mounted: by
// DefaultDependencies= (systemd.special(7)), or by its own word.
var afterMounts = []string{"sysinit.target", "basic.target", "local-fs.target", "remote-fs.target", "multi-user.target"}

// AfterMounts tells the units that start at boot after the local file systems are mounted from those that may start
// earlier. Only the former can be made to wait for something that itself waits for mounts. Units that there are not
// are neither.
func (s *Systemd) AfterMounts(ctx context.Context, units []string) (late, early []string, err error) {
	for _, name := range units {
		u, err := s.unit(ctx, name)
		switch {
		case err != nil:
			return nil, nil, err
		case u.load == "not-found":
		case overlap(u.after, afterMounts):
			late = append(late, name)
		default:
			early = append(early, name)
		}
	}
	return late, early, nil
}

// Fscks returns the units that check file systems before the mounts of these units, each once
// (systemd-fsck@.service(8)).
func (s *Systemd) Fscks(ctx context.Context, mounts []string) ([]string, error) {
	var checks []string
	for _, name := range mounts {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, other := range slices.Concat(u.after, u.pulls) {
			if strings.HasPrefix(other, "systemd-fsck@") && !slices.Contains(checks, other) {
				checks = append(checks, other)
			}
		}
	}
	return checks, nil
}

// GoneAtBoot tells whether a unit is none that the next boot has, because no file defines it: neither fstab nor an
// administrator's unit.
func (s *Systemd) GoneAtBoot(ctx context.Context, name string) (bool, error) {
	u, err := s.unit(ctx, name)
	return u.file == "" || u.transient, err
}

// Forget is called when no file requires a unit any more and before its own file is removed. A unit that was loaded
// while one did still requires it, and would fail to start without it: a timer whose service does not start never
// elapses again. So systemd reads its files again if it has loaded the unit, as it has when another one requires it.
// Then the unit is stopped, so that systemd does not keep it: one that is active, and whose file is gone, cannot be
// required by what is loaded later, also when there is such a file again.
func (s *Systemd) Forget(ctx context.Context, unit string) error {
	loaded, err := s.bus.loaded(ctx, unit)
	if err == nil && len(loaded) > 0 {
		err = s.bus.reload(ctx)
	}
	if err != nil {
		return busFault(ctx, err, "have systemd forget %s", unit)
	}
	if len(loaded) == 0 {
		return nil
	}
	return s.Release(ctx, unit) // of this unit alone: nothing that required it is stopped
}
