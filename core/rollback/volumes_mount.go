package rollback

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
)

// openAndMount opens the LUKS mappings, starts the automounts, and mounts what is not mounted. It tries each part even
// if an earlier part fails. It warns of what the mounts will hide.
func (v *volumes) openAndMount(ctx context.Context, specs []filesystem.MountSpec) error {
	v.warnOfHidden(mountPoints(specs))
	cryptErr := v.openCrypts(ctx)
	_, automountErr := v.systemd.Start(ctx, v.state.Automounts)
	automountHold, _ := v.holds.names()
	holdErr := v.holds.release(ctx, automountHold)
	mountErr := v.mountMissing(ctx, specs)
	return fault.All(cryptErr, automountErr, holdErr, mountErr)
}

// mountMissing makes those of the mounts that are not there. Bind mounts come last, and only if all others are there.
func (v *volumes) mountMissing(ctx context.Context, specs []filesystem.MountSpec) error {
	mounts, err := v.server.Host.Mounts()
	if err != nil {
		return err
	}
	var deviceMounts, bindMounts []filesystem.MountSpec
	var errs []error
	for _, spec := range specs {
		switch {
		case isMounted(mounts, spec):
			errs = append(errs, v.checkMounted(mounts, spec))
		case spec.Bind != "":
			bindMounts = append(bindMounts, spec)
		default:
			deviceMounts = append(deviceMounts, spec)
		}
	}
	errs = append(errs, v.mountAll(ctx, deviceMounts, !hasNested(deviceMounts) && !hasSharedDevice(deviceMounts)))
	if err := fault.All(errs...); err != nil {
		return err
	}
	return v.mountAll(ctx, bindMounts, false)
}

// checkMounted says what is wrong with the mount that is already at the point of spec (mount_failed): it may be another
// file system, or it may be read-only because somebody mounted it while the member was read-only.
func (v *volumes) checkMounted(mounts []filesystem.Mount, spec filesystem.MountSpec) error {
	m, _ := filesystem.At(mounts, spec.Point)
	if dev, err := v.server.Host.Device(spec.Source); spec.Bind == "" && err == nil && dev != m.Dev {
		return fault.New(fault.MountFailed, "another program has mounted %s on %s meanwhile, where %s belongs",
			m.Source, spec.Point, spec.Source).WithHint("umount %s, and run the same task again", spec.Point)
	}
	if !m.ReadOnly() || !slices.Contains(spec.Options, "rw") {
		return nil
	}
	return fault.New(fault.MountFailed, "%s was mounted read-only by another program meanwhile", spec.Point).
		WithHint("umount %s, and run the same task again", spec.Point)
}

// mountAll makes mounts one after the other, or, with parallel, all at the same time, so that each file system replays
// its log while the others do. A mount below one that failed is not tried.
func (v *volumes) mountAll(ctx context.Context, specs []filesystem.MountSpec, parallel bool) error {
	done := make(chan error, len(specs))
	var errs []error
	var failed []string
	for _, spec := range specs {
		if slices.ContainsFunc(failed, func(point string) bool { return isBelow(spec.Point, point) }) {
			errs = append(errs, fault.New(fault.MountFailed, "%s is not mounted, because what it lies in is not", spec.Point))
			continue
		}
		go func() {
			var err error
			defer func() { done <- err }() // even if this goroutine ends early, as that of a simulated process does
			err = v.mountOne(ctx, spec)
		}()
		if parallel {
			continue
		}
		err := <-done
		if errs = append(errs, err); err != nil {
			failed = append(failed, spec.Point)
		}
	}
	for len(errs) < len(specs) {
		errs = append(errs, <-done)
	}
	return fault.All(errs...)
}

// mountOne mounts one file system. Below an automount only systemd can mount it. The mount may be there already: if
// both are below shared mounts, another mount of the same device propagates to this point, with the flags of that other
// mount.
func (v *volumes) mountOne(ctx context.Context, spec filesystem.MountSpec) error {
	if mounts, err := v.server.Host.Mounts(); err == nil && isMounted(mounts, spec) {
		if hasFlags(mounts, spec) {
			return nil
		}
		return v.server.Host.Reflag(spec)
	}
	unit := service.MountUnit(spec.Point)
	if !v.state.isAutomounted(unit) {
		return v.server.Host.Mount(ctx, v.commands, spec)
	}
	return v.startPlan(ctx, service.Plan{Active: []string{unit}})
}

// hasNested is true if one mount point lies below another, so that the order of the mounts matters.
func hasNested(specs []filesystem.MountSpec) bool {
	for _, a := range specs {
		for _, b := range specs {
			if isBelow(b.Point, a.Point) {
				return true
			}
		}
	}
	return false
}

// hasSharedDevice is true if a device is mounted more than once.
func hasSharedDevice(specs []filesystem.MountSpec) bool {
	devices := map[string]bool{}
	for _, s := range specs {
		if devices[s.Source] {
			return true
		}
		devices[s.Source] = true
	}
	return false
}

// isBelow is true if point lies below other.
func isBelow(point, other string) bool {
	return point != other && strings.HasPrefix(point, strings.TrimSuffix(other, "/")+"/")
}

// isMounted is true if something other than an automount point is mounted at the point.
func isMounted(mounts []filesystem.Mount, spec filesystem.MountSpec) bool {
	m, ok := filesystem.At(mounts, spec.Point)
	return ok && m.Type != filesystem.Autofs
}

// hasFlags is true if a bind mount has the flags of its spec. A spec without flags inherits them, so that any flags are
// right.
func hasFlags(mounts []filesystem.Mount, spec filesystem.MountSpec) bool {
	m, _ := filesystem.At(mounts, spec.Point)
	flags := m.Flags()
	lacks := func(flag string) bool { return !slices.Contains(flags, flag) }
	return spec.Bind == "" || len(spec.Options) == 0 ||
		len(flags) == len(spec.Options) && !slices.ContainsFunc(spec.Options, lacks)
}

// mountSet mounts the snapshots again where they were mounted. A failure is only a warning: nothing depends on these
// mounts, and a snapshot that has overflowed meanwhile cannot be mounted any more.
func (v *volumes) mountSet(ctx context.Context) {
	if err := v.mountMissing(ctx, v.state.SetMounts); err != nil {
		journey.LogError(err)
		v.warnings = append(v.warnings, "the set is not mounted again: "+err.Error())
	}
}
