package rollback

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service"
)

const holdText = "Rewind: a rollback is under way; what mounts its volumes, and the stopped services, wait for its end"

// findHeldUnits finds the units that could open a member while it is rolled back: those that systemd starts on its
// devices, and those that must not start before the boot guard. It also finds their automounts.
func (rb *rollback) findHeldUnits(ctx context.Context, f *findings) error {
	var paths []string
	for i := range f.targets {
		for _, dev := range f.devices(i) {
			paths = append(paths, rb.server.Host.Names(dev)...)
		}
	}
	units, err := rb.systemd.OnDevices(ctx, paths)
	if err != nil {
		return err
	}
	for _, unit := range rb.guardedUnits() {
		if !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	if rb.state.Automounts, err = rb.systemd.Automounts(ctx, units); err != nil {
		return err
	}
	rb.state.Held = units
	return nil
}

// devices returns the devices of one member: its volume, and the device that its file system is on.
func (f *findings) devices(member int) []filesystem.Dev {
	t := &f.targets[member]
	lv := filesystem.NewDev(t.LV.Major, t.LV.Minor)
	if lv == t.FS {
		return []filesystem.Dev{lv}
	}
	return []filesystem.Dev{t.FS, lv}
}

// automounters returns the programs other than systemd that have mounted one of the mounts. They would mount it again
// on the next access, and cannot be told to wait.
func automounters(mounts, ownMounts []filesystem.Mount) []filesystem.Holder {
	var holders []filesystem.Holder
	proc := filesystem.Proc("/proc")
	for _, m := range ownMounts {
		if automount, pid := automountOf(mounts, m); pid > 1 {
			holders = append(holders, filesystem.Holder{
				Kind: "process", How: "automount", Path: automount.Point, Dev: m.Dev,
				PID: pid, Command: proc.Command(pid), Unit: proc.Unit(pid),
			})
		}
	}
	return holders
}

// automountOf returns the automount point that a mount lies on, and the process that serves it; pid is 0 if there is
// none.
func automountOf(mounts []filesystem.Mount, m filesystem.Mount) (automount filesystem.Mount, pid int) {
	for _, parent := range mounts {
		if parent.ID == m.Parent {
			pid, _ = parent.Automounter()
			return parent, pid
		}
	}
	return filesystem.Mount{}, 0
}

// heldUnits returns the units that are held, in two lists. At an automount point only systemd can mount; such mounts,
// and the checks of file systems that they wait for, must be released before the rollback mounts anything. The others
// are released when everything is mounted and they have nothing left to do. Among them are the stopped services: if a
// monitoring program or a person started them earlier, they would write into the directories below the mount points.
func (rb *rollback) heldUnits() (belowAutomounts, others []string) {
	anyAutomounted := slices.ContainsFunc(rb.state.Held, rb.isAutomounted)
	for _, unit := range rb.state.Held {
		if rb.isAutomounted(unit) || anyAutomounted && !strings.HasSuffix(unit, ".mount") {
			belowAutomounts = append(belowAutomounts, unit)
		} else {
			others = append(others, unit)
		}
	}
	return belowAutomounts, append(others, except(rb.state.Services.Stop, others)...)
}

// isAutomounted is true if a mount unit lies below an automount.
func (rb *rollback) isAutomounted(unit string) bool {
	return slices.Contains(rb.state.Automounts.Active, service.AutomountOf(unit))
}

// holdNames returns the names of the two units that hold other units for this rollback.
func (rb *rollback) holdNames() (automountHold, otherHold string) {
	id := rb.entry().ID
	return "rewind-hold-" + id + "-auto.service", "rewind-hold-" + id + ".service"
}

// hold keeps systemd from mounting a member, from opening it in any other way, and from starting the services, until
// releaseHold.
func (rb *rollback) hold(ctx context.Context) error {
	automountHold, otherHold := rb.holdNames()
	belowAutomounts, others := rb.heldUnits()
	if err := rb.systemd.Hold(ctx, automountHold, holdText, belowAutomounts); err != nil {
		return err
	}
	if err := rb.systemd.Hold(ctx, otherHold, holdText, others); err != nil {
		return err
	}
	return rb.checkStopped(ctx)
}

// checkStopped refuses to go on if a service was started again before it was held (busy).
func (rb *rollback) checkStopped(ctx context.Context) error {
	for _, unit := range rb.state.Services.Stop {
		isActive, err := rb.systemd.Active(ctx, unit)
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
func (rb *rollback) holdMounts(ctx context.Context, points []string) error {
	var notHeld []string
	for _, point := range points {
		unit := service.MountUnit(point)
		if !slices.Contains(slices.Concat(append(rb.state.Late, rb.state.Held)...), unit) {
			notHeld = append(notHeld, unit)
		}
	}
	if len(notHeld) == 0 || rb.systemd == nil { // systemd is nil early in a boot, when nothing mounts members
		return nil
	}
	if err := rb.systemd.Hold(ctx, rb.lateHoldName(len(rb.state.Late)), holdText, notHeld); err != nil {
		return err
	}
	rb.state.Late = append(rb.state.Late, notHeld)
	return nil
}

// lateHoldName returns the name of the unit that holds the units of rb.state.Late[i].
func (rb *rollback) lateHoldName(i int) string {
	return fmt.Sprintf("rewind-hold-%s-late%d.service", rb.entry().ID, i)
}

// releaseOtherHolds ends all holds except that of units below automounts, which was ended before. With stayStopped it
// also stops the services, so that they do not start if somebody asked for their start during the hold.
func (rb *rollback) releaseOtherHolds(ctx context.Context, stayStopped bool) error {
	var errs []error
	if stayStopped && len(rb.state.Services.Stop) > 0 {
		errs = append(errs, rb.systemd.Stop(ctx, rb.state.Services, stopReserve))
	}
	_, otherHold := rb.holdNames()
	errs = append(errs, rb.releaseHold(ctx, otherHold))
	for i := range len(rb.state.Late) + 1 { // an earlier run may have been killed before it recorded its last hold
		errs = append(errs, rb.releaseHold(ctx, rb.lateHoldName(i)))
	}
	return fault.All(errs...)
}

// releaseHold ends one hold. What waits for it is started.
func (rb *rollback) releaseHold(ctx context.Context, name string) error {
	if len(rb.state.Held)+len(rb.state.Late)+len(rb.state.Services.Stop) == 0 {
		return nil
	}
	if err := rb.systemd.Release(ctx, name); err != nil {
		return fault.New(fault.Of(err).Code, "what mounts the volumes, and the services, are still held: %w", err).
			WithHint("systemctl stop %s", name)
	}
	return nil
}
