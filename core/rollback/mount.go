package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// bringUp opens, makes automounts listen, and mounts what is not mounted. What fails keeps nothing else down.
func (w *walk) bringUp(ctx context.Context, specs []filesystem.MountSpec) error {
	opened := w.openCrypts(ctx)
	_, listens := w.systemd.Start(ctx, w.state.Automounts)
	below, _ := w.holdNames()
	waits := w.letGo(ctx, below)
	mounted := w.mountMissing(ctx, specs)
	return fault.All(opened, listens, waits, mounted)
}

// mountMissing mounts what is not mounted.
func (w *walk) mountMissing(ctx context.Context, specs []filesystem.MountSpec) error {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	var whole, binds []filesystem.MountSpec
	var wrong []error
	for _, spec := range specs {
		switch {
		case isMounted(mounts, spec):
			wrong = append(wrong, asIs(mounts, spec))
		case spec.Bind != "":
			binds = append(binds, spec)
		default:
			whole = append(whole, spec)
		}
	}
	wrong = append(wrong, w.mountAll(ctx, whole, !nested(whole) && !shared(whole)))
	if err := fault.All(wrong...); err != nil {
		return err
	}
	return w.mountAll(ctx, binds, false)
}

// asIs says what is wrong with what is mounted in the place of a mount that is to be made: something else, or the
// member read-only, by somebody who came while it was protected.
func asIs(mounts []filesystem.Mount, spec filesystem.MountSpec) error {
	m, _ := filesystem.At(mounts, spec.Point)
	if dev, err := snapset.BlockDevice(spec.Source); spec.Bind == "" && err == nil && dev != m.Dev {
		return fault.New(fault.MountFailed, "another program has mounted %s on %s meanwhile, where %s belongs",
			m.Source, spec.Point, spec.Source).WithHint("umount %s, and run the same task again", spec.Point)
	}
	if !m.ReadOnly() || !slices.Contains(spec.Options, "rw") {
		return nil
	}
	return fault.New(fault.MountFailed, "%s was mounted read-only by another program meanwhile", spec.Point).
		WithHint("umount %s, and run the same task again", spec.Point)
}

// mountAll mounts one after the other, or all at the same time: each file system replays its own log.
func (w *walk) mountAll(ctx context.Context, specs []filesystem.MountSpec, together bool) error {
	done := make(chan error, len(specs))
	var errs []error
	var failed []string
	for _, spec := range specs {
		if slices.ContainsFunc(failed, func(point string) bool { return inside(spec.Point, point) }) {
			errs = append(errs, fault.New(fault.MountFailed, "%s is not mounted, because what it lies in is not", spec.Point))
			continue
		}
		go func() { done <- w.mountOne(ctx, spec) }()
		if together {
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

// mountOne mounts one file system; below an automount only systemd can. Another mount of the same device may have
// brought it along, where both are below mounts that share what is mounted there, with the flags of that one.
func (w *walk) mountOne(ctx context.Context, spec filesystem.MountSpec) error {
	if mounts, err := filesystem.Mounts(); err == nil && isMounted(mounts, spec) {
		if hasFlags(mounts, spec) {
			return nil
		}
		return filesystem.Reflag(spec)
	}
	unit := service.MountUnit(spec.Point)
	if !w.automounted(unit) {
		if w.atOnce != nil {
			if err := w.atOnce(ctx, spec); err == nil || late(err) {
				return err
			}
		}
		return filesystem.MountDevice(ctx, w.commands, spec)
	}
	return w.startAll(ctx, service.Plan{Active: []string{unit}})
}

// late says that the kernel goes on with a call that was not waited for any longer.
func late(err error) bool { return errors.Is(err, fault.Timeout) || errors.Is(err, fault.Interrupted) }

// nested says that one mount point lies below another, so that the order matters.
func nested(specs []filesystem.MountSpec) bool {
	for _, a := range specs {
		for _, b := range specs {
			if inside(b.Point, a.Point) {
				return true
			}
		}
	}
	return false
}

// shared says that a device is mounted more than once.
func shared(specs []filesystem.MountSpec) bool {
	devices := map[string]bool{}
	for _, s := range specs {
		if devices[s.Source] {
			return true
		}
		devices[s.Source] = true
	}
	return false
}

// inside says that a mount point lies below another.
func inside(point, other string) bool {
	return point != other && strings.HasPrefix(point, strings.TrimSuffix(other, "/")+"/")
}

// isMounted says that something other than an automount's trap is mounted at the point already.
func isMounted(mounts []filesystem.Mount, spec filesystem.MountSpec) bool {
	m, ok := filesystem.At(mounts, spec.Point)
	return ok && m.Type != filesystem.Autofs
}

// hasFlags says that a bind mount has the flags that it is to have; one without any inherits them.
func hasFlags(mounts []filesystem.Mount, spec filesystem.MountSpec) bool {
	m, _ := filesystem.At(mounts, spec.Point)
	have := m.Flags()
	lacks := func(flag string) bool { return !slices.Contains(have, flag) }
	return spec.Bind == "" || len(spec.Options) == 0 ||
		len(have) == len(spec.Options) && !slices.ContainsFunc(spec.Options, lacks)
}

// mountSet mounts the set where it was mounted for a look. Nothing depends on that, and what has overflowed meanwhile
// can never be mounted again: it is a warning.
func (w *walk) mountSet(ctx context.Context) {
	if err := w.mountMissing(ctx, w.state.SetMounts); err != nil {
		journey.Say(err)
		w.warnings = append(w.warnings, "the set is not mounted again: "+err.Error())
	}
}
