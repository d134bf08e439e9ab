package rollback

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/filesystem"
)

// planServices plans which units are stopped, and names everything else that holds the volumes open (busy). With Defer
// it returns the holders in f instead.
func (p *planner) planServices(ctx context.Context, f *findings) error {
	disturbed, err := p.disturbedUnits(ctx)
	if err != nil {
		return err
	}
	plan, err := p.systemd.Plan(ctx, p.Services)
	if err != nil {
		return err
	}
	named := append(slices.Clone(p.Services), except(disturbed, plan.Stop)...)
	if len(named) > len(p.Services) {
		if plan, err = p.systemd.Plan(ctx, named); err != nil {
			return err
		}
	}
	holders, err := p.holders(ctx, f)
	if err != nil {
		return err
	}
	vouched := plan.Stop
	if p.StopHolders {
		vouched = nil
	}
	if p.Auto || p.StopHolders {
		units, _, err := p.systemd.ByProcess(ctx, pids(holders))
		if err != nil {
			return err
		}
		units = append(units, unitsBehind(holders)...)
		if plan, err = p.systemd.Plan(ctx, append(named, except(units, plan.Stop)...)); err != nil {
			return err
		}
	}
	p.state.Services = plan
	if err := p.findHeldUnits(ctx, f); err != nil {
		return err
	}
	// What a unit leaves behind is no reason to refuse a unit that the user named: perhaps its main process ends it.
	outliving, err := p.systemd.Outliving(ctx, except(plan.Stop, vouched), pids(holders))
	if err != nil {
		return err
	}
	return p.judgeHolders(ctx, f, holders, outliving)
}

// judgeHolders names the holders that neither the stop of their units nor the rollback itself ends (busy). outliving
// are those that outlive the stop of their units. With Defer judgeHolders returns the holders in f instead.
func (p *planner) judgeHolders(
	ctx context.Context, f *findings, holders []filesystem.Holder, outliving []int,
) error {
	remaining := slices.DeleteFunc(holders, func(h filesystem.Holder) bool {
		return h.Unit != "" && slices.Contains(p.state.Services.Stop, h.Unit) && !slices.Contains(outliving, h.PID)
	})
	if p.StopHolders {
		f.toEnd, remaining = splitKillable(remaining)
	}
	if p.Defer {
		f.holders = remaining
		return nil
	}
	_, transient, err := p.systemd.ByProcess(ctx, pids(remaining))
	if err != nil {
		return err
	}
	return withOutliving(busyFault(remaining, transient), remaining, outliving)
}

// disturbedUnits returns the units that the unmount itself would disturb for good: those that systemd would stop with
// the mounts and not start again, and path units that watch something in them.
func (p *planner) disturbedUnits(ctx context.Context) ([]string, error) {
	bound, err := p.systemd.BoundTo(ctx, p.state.mountUnits())
	if err != nil {
		return nil, err
	}
	watching, err := p.systemd.Watching(ctx, mountPoints(p.state.Mounts))
	return append(bound, watching...), err
}

// findHeldUnits finds the units that could open a member while it is rolled back: those that systemd starts on its
// devices, and those that must not start before the boot guard. It also finds their automounts.
func (p *planner) findHeldUnits(ctx context.Context, f *findings) error {
	var paths []string
	for i := range f.targets {
		for _, dev := range f.devices(i) {
			paths = append(paths, p.server.Host.Names(dev)...)
		}
	}
	units, err := p.systemd.OnDevices(ctx, paths)
	if err != nil {
		return err
	}
	for _, unit := range p.state.guardedUnits() {
		if !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	if p.state.Automounts, err = p.systemd.Automounts(ctx, units); err != nil {
		return err
	}
	p.state.Held = units
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

// usesVolumes is true if one of the units may work on the volumes. A path unit only watches them.
func usesVolumes(units []string) bool {
	return slices.ContainsFunc(units, func(unit string) bool { return !strings.HasSuffix(unit, ".path") })
}

// except returns those of the units that are not excluded.
func except(units, excluded []string) []string {
	return slices.DeleteFunc(slices.Clone(units), func(u string) bool { return slices.Contains(excluded, u) })
}
