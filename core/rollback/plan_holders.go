package rollback

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/proc"
	"go.pcc.com/rewind/core/service"
)

// holders returns everything that keeps the volumes, their LUKS mappings and the snapshots open, except for the mounts
// that the rollback unmounts itself.
func (p *planner) holders(ctx context.Context, f *findings) ([]filesystem.Holder, error) {
	var devs []filesystem.Dev
	var ownMounts []filesystem.Mount
	for i := range f.targets {
		devs = append(devs, f.devices(i)...)
		ownMounts = append(ownMounts, mountsToRestore(&f.targets[i], p.StopHolders)...)
	}
	for _, v := range f.selection.snapshots {
		dev := filesystem.NewDev(v.Major, v.Minor)
		devs = append(devs, dev)
		ownMounts = append(ownMounts, filesystem.On(f.selection.view.Mounts, dev)...)
	}
	holders, err := p.server.Host.Holders(ctx, devs, ownMounts)
	if err != nil {
		return nil, err
	}
	if p.run == nil {
		holders = append(holders, calledProgram(devs)...)
	}
	closedByRollback := func(h filesystem.Holder) bool { return f.isMemberCrypt(h) || isWholeMount(h) }
	holders = slices.DeleteFunc(holders, closedByRollback)
	if err := nameUnits(ctx, p.systemd, holders); err != nil {
		return nil, err
	}
	withoutHolder, err := p.persistentlyOpen(ctx, holders)
	if err != nil {
		return nil, err
	}
	mounts := f.selection.view.Mounts
	return slices.Concat(holders, withoutHolder, nestedMounts(mounts, ownMounts), automounters(mounts, ownMounts)), nil
}

// isWholeMount is true for a mount of a whole member that was made after the mounts were read, for example by an
// automount. addNewMounts takes care of it.
func isWholeMount(h filesystem.Holder) bool {
	return h.Kind == "mount" && h.How == "mount" && h.PID == 0
}

// nameUnits sets the unit of holders that are not processes of that unit: of sockets on which systemd itself listens,
// and of what the kernel does for a unit. A unit that does not run is cleared.
func nameUnits(ctx context.Context, systemd *service.Systemd, holders []filesystem.Holder) error {
	for i := range holders {
		h := &holders[i]
		if h.How == "socket" && h.PID == 1 {
			unit, err := systemd.ListensAt(ctx, h.Path)
			if err != nil {
				return err
			}
			h.Unit = cmp.Or(unit, h.Unit)
		}
		if h.PID != 0 || h.Unit == "" {
			continue
		}
		runs, err := systemd.CanStop(ctx, h.Unit)
		if err != nil {
			return err
		}
		if !runs {
			h.Unit = ""
		}
	}
	return nil
}

// unitsBehind returns the units that nameUnits found.
func unitsBehind(holders []filesystem.Holder) []string {
	var units []string
	for _, h := range holders {
		if (h.PID == 0 || strings.HasSuffix(h.Unit, ".socket")) && h.Unit != "" && !slices.Contains(units, h.Unit) {
			units = append(units, h.Unit)
		}
	}
	return units
}

// nestedMounts returns mounts inside the file systems that are to be unmounted, which keep those busy.
func nestedMounts(mounts, ownMounts []filesystem.Mount) []filesystem.Holder {
	ids := map[int]bool{}
	for _, m := range ownMounts {
		ids[m.ID] = true
	}
	var holders []filesystem.Holder
	for _, m := range mounts {
		if ids[m.Parent] && !ids[m.ID] {
			holders = append(holders, filesystem.Holder{Kind: "mount", How: "mount", Path: m.Point, Dev: m.Dev})
		}
	}
	return holders
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

// splitKillable splits off the processes that may be ended. It spares init, this process and those that it descends
// from, automounters, and what mustNotEnd names.
func splitKillable(holders []filesystem.Holder) (toEnd []processToEnd, others []filesystem.Holder) {
	callers := ancestors(os.Getpid())
	for _, h := range holders {
		if h.Kind == "process" && h.PID > 1 && h.How != "automount" && !callers[h.PID] && !mustNotEnd(h) {
			p, _ := proc.Find(h.PID) // not found: it has ended, and no process has start time 0
			toEnd = append(toEnd, processToEnd{h, p.StartTicks})
		} else {
			others = append(others, h)
		}
	}
	return toEnd, others
}

// pids returns the processes behind the holders. For a mount in another mount namespace that is a process in that
// namespace.
func pids(holders []filesystem.Holder) []int {
	var list []int
	for _, h := range holders {
		if h.PID != 0 {
			list = append(list, h.PID)
		}
	}
	return list
}
