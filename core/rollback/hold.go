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

// udevRecords is where udev keeps what it knows of each device.
const udevRecords = "/run/udev/data"

const holdText = "Rewind: a rollback is under way; what mounts its volumes, and the stopped services, wait for its end"

// findHeld finds the units that could open a member while it is rolled back: those that systemd starts on its
// devices, and the mounts that are made or that fstab has.
func (w *walk) findHeld(ctx context.Context, f *found) error {
	var paths []string
	for i := range f.targets {
		for _, dev := range f.devices(i) {
			paths = append(paths, filesystem.Names(udevRecords, dev)...)
		}
	}
	units, err := w.systemd.OnDevices(ctx, paths)
	if err != nil {
		return err
	}
	for _, unit := range w.guarded() {
		if !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	if w.state.Automounts, err = w.systemd.Automounts(ctx, units); err != nil {
		return err
	}
	w.state.Held = units
	return nil
}

// devices are those of one member: its volume, and the device that its file system is on.
func (f *found) devices(member int) []filesystem.Dev {
	t := &f.targets[member]
	lv := filesystem.NewDev(t.LV.Major, t.LV.Minor)
	if lv == t.FS {
		return []filesystem.Dev{lv}
	}
	return []filesystem.Dev{t.FS, lv}
}

// automounters names the programs other than systemd that have mounted one of the mounts: they would mount it again
// at the next look, and cannot be told to wait.
func automounters(mounts, own []filesystem.Mount) []filesystem.Holder {
	var out []filesystem.Holder
	proc := filesystem.Proc("/proc")
	for _, m := range own {
		if trap, pid := trapOf(mounts, m); pid > 1 {
			out = append(out, filesystem.Holder{
				Kind: "process", How: "automount", Path: trap.Point, Dev: m.Dev,
				PID: pid, Command: proc.Command(pid), Unit: proc.Unit(pid),
			})
		}
	}
	return out
}

// trapOf returns the automount point that a mount lies on, and the process that serves it; 0 if there is none.
func trapOf(mounts []filesystem.Mount, m filesystem.Mount) (trap filesystem.Mount, pid int) {
	for _, parent := range mounts {
		if parent.ID == m.Parent {
			pid, _ = parent.Automounter()
			return parent, pid
		}
	}
	return filesystem.Mount{}, 0
}

// held splits the units that are held into two. systemd alone can mount at an automount point: those mounts, and the
// checks of file systems that they wait for, are let go before anything is mounted. The others are let go when all is
// mounted and there is nothing left for them to do. With them wait the stopped services: started by a monitoring
// program or by hand, they would write into the directories below the mount points.
func (w *walk) held() (below, others []string) {
	someBelow := slices.ContainsFunc(w.state.Held, w.automounted)
	for _, unit := range w.state.Held {
		if w.automounted(unit) || someBelow && !strings.HasSuffix(unit, ".mount") {
			below = append(below, unit)
		} else {
			others = append(others, unit)
		}
	}
	return below, append(others, missing(w.state.Services.Stop, others)...)
}

// automounted says that a mount unit lies below an automount.
func (w *walk) automounted(unit string) bool {
	return slices.Contains(w.state.Automounts.Active, service.AutomountOf(unit))
}

// holdNames are the names of the two holds of this rollback.
func (w *walk) holdNames() (below, others string) {
	id := w.entry().ID
	return "rewind-hold-" + id + "-auto.service", "rewind-hold-" + id + ".service"
}

// hold keeps systemd from mounting a member, from opening it in any other way, and from starting the services, until
// letGo.
func (w *walk) hold(ctx context.Context) error {
	nameBelow, nameOthers := w.holdNames()
	below, others := w.held()
	if err := w.systemd.Hold(ctx, nameBelow, holdText, below); err != nil {
		return err
	}
	if err := w.systemd.Hold(ctx, nameOthers, holdText, others); err != nil {
		return err
	}
	return w.stillDown(ctx)
}

// stillDown refuses to go on where a service was started again before it was held.
func (w *walk) stillDown(ctx context.Context) error {
	for _, unit := range w.state.Services.Stop {
		up, err := w.systemd.Active(ctx, unit)
		if err != nil {
			return err
		}
		if up {
			return fault.New(fault.Busy, "%s was started again by something else while the volumes were to be unmounted", unit).
				WithHint("systemctl status %s shows what started it; stop that first", unit)
		}
	}
	return nil
}

// holdLate holds the units of mount points that were not held so far, together.
func (w *walk) holdLate(ctx context.Context, points []string) error {
	var late []string
	for _, point := range points {
		unit := service.MountUnit(point)
		if !slices.Contains(slices.Concat(append(w.state.Late, w.state.Held)...), unit) {
			late = append(late, unit)
		}
	}
	if len(late) == 0 || w.systemd == nil { // nobody is there to mount anything early in a boot
		return nil
	}
	if err := w.systemd.Hold(ctx, w.lateName(len(w.state.Late)), holdText, late); err != nil {
		return err
	}
	w.state.Late = append(w.state.Late, late)
	return nil
}

func (w *walk) lateName(i int) string {
	return fmt.Sprintf("rewind-hold-%s-late%d.service", w.entry().ID, i)
}

// letOthersGo ends all holds but that of what is below automounts, which has ended. down has the services stay down,
// whoever asked for their start meanwhile.
func (w *walk) letOthersGo(ctx context.Context, down bool) error {
	var errs []error
	if down && len(w.state.Services.Stop) > 0 {
		errs = append(errs, w.systemd.Stop(ctx, w.state.Services, stopKeep))
	}
	_, others := w.holdNames()
	errs = append(errs, w.letGo(ctx, others))
	for i := range len(w.state.Late) + 1 { // a run may have ended before it wrote down the last one
		errs = append(errs, w.letGo(ctx, w.lateName(i)))
	}
	return fault.All(errs...)
}

func (w *walk) letGo(ctx context.Context, name string) error {
	if len(w.state.Held)+len(w.state.Late)+len(w.state.Services.Stop) == 0 {
		return nil
	}
	if err := w.systemd.Release(ctx, name); err != nil {
		return fault.New(fault.Of(err).Code, "what mounts the volumes, and the services, are still held: %w", err).
			WithHint("systemctl stop %s", name)
	}
	return nil
}
