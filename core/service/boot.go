package service

import (
	"context"
	"slices"
	"strings"
)

// lateTargets are targets that are reached after the local file systems are mounted. A unit that starts after the
// mounts is ordered after one of them, by DefaultDependencies= (systemd.special(7)) or by its own After=.
var lateTargets = []string{"sysinit.target", "basic.target", "local-fs.target", "remote-fs.target", "multi-user.target"}

// AfterMounts divides units into those that start at boot after the local file systems are mounted (late) and those
// that may start before that (early). Only a late unit can be made to wait for something that itself waits for mounts.
// Units that do not exist are in neither list.
func (s *Systemd) AfterMounts(ctx context.Context, units []string) (late, early []string, err error) {
	for _, name := range units {
		u, err := s.unit(ctx, name)
		switch {
		case err != nil:
			return nil, nil, err
		case u.load == "not-found":
		case intersects(u.after, lateTargets):
			late = append(late, name)
		default:
			early = append(early, name)
		}
	}
	return late, early, nil
}

// FileSystemChecks returns the units that check the file systems of the given mount units before they are mounted, each
// once (systemd-fsck@.service(8)).
func (s *Systemd) FileSystemChecks(ctx context.Context, mounts []string) ([]string, error) {
	var checks []string
	for _, name := range mounts {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, other := range slices.Concat(u.after, u.pullsIn) {
			if strings.HasPrefix(other, "systemd-fsck@") && !slices.Contains(checks, other) {
				checks = append(checks, other)
			}
		}
	}
	return checks, nil
}

// GoneAtBoot reports whether a unit will not exist after the next boot, because neither fstab nor an administrator's
// unit file defines it.
func (s *Systemd) GoneAtBoot(ctx context.Context, name string) (bool, error) {
	u, err := s.unit(ctx, name)
	return u.fragmentPath == "" || u.isTransient, err
}

// Forget makes systemd forget a unit. It must be called after every file that requires the unit has been removed, and
// before the unit's own file is removed.
//
// A unit that systemd loaded before those files were removed still requires the forgotten unit, and would fail to start
// without it: a timer whose service does not start never elapses again. So Forget makes systemd read its files again,
// provided that systemd has loaded the unit, which is the case whenever another loaded unit requires it. Then Forget
// stops the unit, so that systemd unloads it: if an active unit whose file is gone stays loaded, a unit that is loaded
// later cannot require it, even if there is such a file again.
func (s *Systemd) Forget(ctx context.Context, unit string) error {
	loadedUnits, err := s.bus.LoadedUnits(ctx, unit)
	if err == nil && len(loadedUnits) > 0 {
		err = s.bus.Reload(ctx)
	}
	if err != nil {
		return busFault(ctx, err, "have systemd forget %s", unit)
	}
	if len(loadedUnits) == 0 {
		return nil
	}
	return s.Release(ctx, unit) // stops this unit only, and no unit that required it
}
