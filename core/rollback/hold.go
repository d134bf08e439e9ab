package rollback

import (
	"context"
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service"
)

// unitHolds keeps systemd from starting units that could open a member, and the stopped services.
type unitHolds struct{ *base }

const holdText = "Rewind: a rollback is under way; what mounts its volumes, and the stopped services, wait for its end"

// names returns the names of the two units that hold other units for this rollback.
func (h *unitHolds) names() (automountHold, otherHold string) {
	id := h.entry().ID
	return "rewind-hold-" + id + "-auto.service", "rewind-hold-" + id + ".service"
}

// hold keeps systemd from mounting a member, from opening it in any other way, and from starting the services, until
// release.
func (h *unitHolds) hold(ctx context.Context) error {
	automountHold, otherHold := h.names()
	belowAutomounts, others := h.state.heldUnits()
	if err := h.systemd.Hold(ctx, automountHold, holdText, belowAutomounts); err != nil {
		return err
	}
	if err := h.systemd.Hold(ctx, otherHold, holdText, others); err != nil {
		return err
	}
	return h.checkStopped(ctx)
}

// checkStopped refuses to go on if a service was started again before it was held (busy).
func (h *unitHolds) checkStopped(ctx context.Context) error {
	for _, unit := range h.state.Services.Stop {
		isActive, err := h.systemd.Active(ctx, unit)
		if err != nil {
			return err
		}
		if isActive {
			return fault.New(fault.Busy, "%s was started again by something else while the volumes were to be unmounted", unit).
				WithHint("systemctl status %s shows what started it; stop that first", unit)
		}
	}
	return nil
}

// holdMounts holds the units of those mount points whose units are not held yet, with one more hold unit.
func (h *unitHolds) holdMounts(ctx context.Context, points []string) error {
	var notHeld []string
	for _, point := range points {
		unit := service.MountUnit(point)
		if !slices.Contains(slices.Concat(append(h.state.Late, h.state.Held)...), unit) {
			notHeld = append(notHeld, unit)
		}
	}
	if len(notHeld) == 0 || h.systemd == nil { // systemd is nil early in a boot, when nothing mounts members
		return nil
	}
	if err := h.systemd.Hold(ctx, h.lateName(len(h.state.Late)), holdText, notHeld); err != nil {
		return err
	}
	h.state.Late = append(h.state.Late, notHeld)
	return nil
}

// lateName returns the name of the unit that holds the units of State.Late[i].
func (h *unitHolds) lateName(i int) string {
	return fmt.Sprintf("rewind-hold-%s-late%d.service", h.entry().ID, i)
}

// releaseOthers ends all holds except that of units below automounts, which was ended before. With stayStopped it
// also stops the services, so that they do not start if somebody asked for their start during the hold. Without a hold
// nobody's request waits: a service that runs was started by somebody after an earlier run had failed, and stays.
func (h *unitHolds) releaseOthers(ctx context.Context, stayStopped bool) error {
	var errs []error
	_, otherHold := h.names()
	if stayStopped && len(h.state.Services.Stop) > 0 {
		isHeld, err := h.systemd.Active(ctx, otherHold)
		if err == nil && isHeld {
			err = h.systemd.Stop(ctx, h.state.Services, stopReserve)
		}
		errs = append(errs, err)
	}
	errs = append(errs, h.release(ctx, otherHold))
	for i := range len(h.state.Late) + 1 { // an earlier run may have been killed before it recorded its last hold
		errs = append(errs, h.release(ctx, h.lateName(i)))
	}
	return fault.All(errs...)
}

// release ends one hold. What waits for it is started.
func (h *unitHolds) release(ctx context.Context, name string) error {
	if len(h.state.Held)+len(h.state.Late)+len(h.state.Services.Stop) == 0 {
		return nil
	}
	if err := h.systemd.Release(ctx, name); err != nil {
		return fault.New(fault.Of(err).Code, "what mounts the volumes, and the services, are still held: %w", err).
			WithHint("systemctl stop %s", name)
	}
	return nil
}
