package rollback

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/proc"
	"go.pcc.com/rewind/core/service"
)

// holders returns everything that keeps the volumes, their LUKS mappings and the snapshots open, except for the mounts
// that the rollback unmounts itself.
func (rb *rollback) holders(ctx context.Context, f *findings) ([]filesystem.Holder, error) {
	var devs []filesystem.Dev
	var ownMounts []filesystem.Mount
	for i := range f.targets {
		devs = append(devs, f.devices(i)...)
		ownMounts = append(ownMounts, rb.ownMounts(&f.targets[i])...)
	}
	for _, v := range f.selection.snapshots {
		dev := filesystem.NewDev(v.Major, v.Minor)
		devs = append(devs, dev)
		ownMounts = append(ownMounts, filesystem.On(f.selection.view.Mounts, dev)...)
	}
	holders, err := rb.server.Host.Holders(ctx, devs, ownMounts)
	if err != nil {
		return nil, err
	}
	if rb.run == nil {
		holders = append(holders, calledProgram(devs)...)
	}
	closedByRollback := func(h filesystem.Holder) bool { return rb.isMemberCrypt(f, h) || isWholeMount(h) }
	holders = slices.DeleteFunc(holders, closedByRollback)
	if err := nameUnits(ctx, rb.systemd, holders); err != nil {
		return nil, err
	}
	withoutHolder, err := rb.persistentlyOpen(ctx, holders)
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

// busyFault names what holds the volumes open, and what to do about it. transient are units among the holders that are
// not stopped because they could not be started again. It returns nil if there are no holders.
func busyFault(holders []filesystem.Holder, transient []string) error {
	if len(holders) == 0 {
		return nil
	}
	return fault.New(fault.Busy, "the volumes are held open by %s", filesystem.Describe(holders)).With("holders", holders).
		WithHint("%s", advice(holders, transient))
}

// advice returns the hint that says what to do about holders.
func advice(holders []filesystem.Holder, transient []string) string {
	var parts []string
	if hint, others := calledProgramAdvice(holders); hint != "" {
		if len(others) == 0 {
			return hint
		}
		parts, holders = append(parts, hint), others
	}
	logins, dirs := []string{}, []string{}
	for _, h := range holders {
		if h.How == "cwd" && strings.HasPrefix(h.Unit, "session-") {
			logins, dirs = append(logins, fmt.Sprintf("%s (pid %d)", h.Command, h.PID)), append(dirs, h.Path)
		}
	}
	if len(logins) > 0 {
		slices.Sort(dirs)
		parts = append(parts, fmt.Sprintf("have %s leave %s (cd /): services=auto does not end a login session",
			strings.Join(logins, ", "), strings.Join(slices.Compact(dirs), ", ")))
	}
	if len(transient) > 0 {
		parts = append(parts, fmt.Sprintf("stop %s yourself: made by systemd-run or the like, it could not be started again",
			strings.Join(transient, ", ")))
	}
	runs, named := 0, map[string]bool{}
	for _, h := range holders {
		if !isOfRun(h) {
			continue
		}
		runs++
		if !named[h.Unit] {
			parts = append(parts, fmt.Sprintf("wait for the end of %s, an earlier run, which may wait for the disk itself: "+
				"systemctl status %[1]s", h.Unit))
		}
		named[h.Unit] = true
	}
	kernelParts := kernelAdvice(holders)
	parts = append(parts, kernelParts...)
	if len(logins)+len(kernelParts)+runs == len(holders) {
		return strings.Join(parts, "; ")
	}
	parts = append(parts, "add the units to services, end the processes, or unmount; "+
		"holders=stop ends processes, services=auto finds the units")
	return strings.Join(parts, "; ")
}

// withOutliving adds to the hint of a busyFault what to do about those of its holders that outlive the stop of their
// units. If there are no others, it is all of the hint. busy may be nil.
func withOutliving(busy error, holders []filesystem.Holder, outliving []int) error {
	var left []string
	others := 0
	for _, h := range holders {
		if slices.Contains(outliving, h.PID) {
			left = append(left, fmt.Sprintf("%s (pid %d) of %s", h.Command, h.PID, h.Unit))
		} else {
			others++
		}
	}
	if len(left) == 0 {
		return busy
	}
	slices.Sort(left)
	f := fault.Of(busy)
	hint := "a stop of its unit leaves " + strings.Join(slices.Compact(left), ", ") + " running (KillMode=): " +
		"wait for its end, or holders=stop ends it; if the unit ends it all the same, name the unit in services"
	if others > 0 {
		hint += "; the others: " + f.Hint
	}
	return f.WithHint("%s", hint)
}

// kernelAdvice says for each device, file or socket that the kernel itself holds open how to make the kernel release
// it.
func kernelAdvice(holders []filesystem.Holder) []string {
	var parts []string
	for _, h := range holders {
		switch h.Kind {
		case "swap":
			parts = append(parts, "swapoff "+h.Path)
		case "loop":
			parts = append(parts, fmt.Sprintf("unmount what is on %s, then losetup -d %s", h.Path, h.Path))
		case "device":
			if h.How == "open" {
				parts = append(parts, fmt.Sprintf("no process has %s open, the kernel does, as for DRBD: end that", h.Path))
			}
		case "export":
			parts = append(parts,
				fmt.Sprintf("name nfs-server in services, or take the export away: exportfs -u CLIENT:%s", h.Path))
		case "target":
			parts = append(parts,
				fmt.Sprintf("no process holds %s, the kernel serves it as a disk (%s): end that", h.Path, h.How))
		case "socket":
			parts = append(parts, fmt.Sprintf("no process has the socket %s: it is being handed over; see ss -xp", h.Path))
		}
	}
	return parts
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

// withHolders adds to an error what holds the volumes open now.
func (rb *rollback) withHolders(ctx context.Context, cause error) error {
	volumes, snapshots, err := rb.devices(ctx, rb.state.Members)
	if err != nil {
		return cause
	}
	devs := slices.Concat(volumes, snapshots)
	mounts, err := rb.server.Host.Mounts()
	if err != nil {
		return cause
	}
	var ownMounts []filesystem.Mount
	for _, dev := range devs {
		ownMounts = append(ownMounts, filesystem.On(mounts, dev)...)
	}
	holders, err := rb.server.Host.Holders(ctx, devs, ownMounts)
	if err != nil {
		return cause
	}
	return fault.All(rb.newHoldersFault(holders, cause), cause)
}

// newHoldersFault names the holders that are there although an earlier check found none, or all were ended. If there
// are none, it says where they were looked for.
func (rb *rollback) newHoldersFault(holders []filesystem.Holder, cause error) error {
	const advice = "something opens files there again and again: stop what does (name its unit in services), " +
		"then run the same again"
	if len(holders) == 0 {
		f := fault.New(fault.Busy, "nothing is found that still holds a volume open; looked at were %s",
			filesystem.LookedAt)
		if fault.Of(cause).Hint != "" {
			return f
		}
		return f.WithHint(advice + "; if it stays so, the kernel itself holds it: umount and dmsetup info show it")
	}
	f := fault.Of(busyFault(holders, nil))
	if rb.StopHolders {
		f = f.WithHint("holders=stop had ended what was there; " + advice)
	}
	return f
}
