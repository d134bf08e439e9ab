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

// holders are all that keep the volumes, their crypt devices and the set's snapshots open, but for the mounts that the
// rollback undoes itself.
func (w *walk) holders(ctx context.Context, f *found) ([]filesystem.Holder, error) {
	var devs []filesystem.Dev
	var own []filesystem.Mount
	for i := range f.targets {
		devs = append(devs, f.devices(i)...)
		own = append(own, w.ownMounts(&f.targets[i])...)
	}
	for _, v := range f.sight.snapshots {
		dev := filesystem.NewDev(v.Major, v.Minor)
		devs = append(devs, dev)
		own = append(own, filesystem.On(f.sight.view.Mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil {
		return nil, err
	}
	if w.trip == nil {
		holders = append(holders, calledFrom(devs)...)
	}
	holders = slices.DeleteFunc(holders, func(h filesystem.Holder) bool { return w.isOurCrypt(f, h) || isWhole(h) })
	if err := nameUnits(ctx, w.systemd, holders); err != nil {
		return nil, err
	}
	unseen, err := w.unseen(ctx, holders)
	if err != nil {
		return nil, err
	}
	return slices.Concat(holders, unseen, below(f.sight.view.Mounts, own), automounters(f.sight.view.Mounts, own)), nil
}

// isWhole says that a holder is a mount of a whole member that has come since the mounts were looked at, as by an
// automount: unmount takes it in.
func isWhole(h filesystem.Holder) bool { return h.Kind == "mount" && h.How == "mount" && h.PID == 0 }

// nameUnits names the units of what no process of theirs holds: sockets that systemd listens at, and what the kernel
// does for a unit, if that unit runs.
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

// unitsBehind are the units of holders that are not found by a process of theirs: see nameUnits.
func unitsBehind(holders []filesystem.Holder) []string {
	var units []string
	for _, h := range holders {
		if (h.PID == 0 || strings.HasSuffix(h.Unit, ".socket")) && h.Unit != "" && !slices.Contains(units, h.Unit) {
			units = append(units, h.Unit)
		}
	}
	return units
}

// below names mounts inside the file systems that are to be unmounted, which keep them busy.
func below(mounts, own []filesystem.Mount) []filesystem.Holder {
	ids := map[int]bool{}
	for _, m := range own {
		ids[m.ID] = true
	}
	var out []filesystem.Holder
	for _, m := range mounts {
		if ids[m.Parent] && !ids[m.ID] {
			out = append(out, filesystem.Holder{Kind: "mount", How: "mount", Path: m.Point, Dev: m.Dev})
		}
	}
	return out
}

// busy names what holds the volumes open, and what to do about it. transient are those of its units that are not
// stopped because they could not be started again.
func busy(holders []filesystem.Holder, transient []string) error {
	if len(holders) == 0 {
		return nil
	}
	return fault.New(fault.Busy, "the volumes are held open by %s", filesystem.Named(holders)).With("holders", holders).
		WithHint("%s", advice(holders, transient))
}

func advice(holders []filesystem.Holder, transient []string) string {
	var first []string
	if hint, others := copyElsewhere(holders); hint != "" {
		if len(others) == 0 {
			return hint
		}
		first, holders = append(first, hint), others
	}
	logins, dirs := []string{}, []string{}
	for _, h := range holders {
		if h.How == "cwd" && strings.HasPrefix(h.Unit, "session-") {
			logins, dirs = append(logins, fmt.Sprintf("%s (pid %d)", h.Command, h.PID)), append(dirs, h.Path)
		}
	}
	if len(logins) > 0 {
		slices.Sort(dirs)
		first = append(first, fmt.Sprintf("have %s leave %s (cd /): services=auto does not end a login session", strings.Join(logins, ", "),
			strings.Join(slices.Compact(dirs), ", ")))
	}
	if len(transient) > 0 {
		first = append(first, fmt.Sprintf("stop %s yourself: made by systemd-run or the like, it could not be started again", strings.Join(transient, ", ")))
	}
	runs, waits := 0, map[string]bool{}
	for _, h := range holders {
		if !ofARun(h) {
			continue
		}
		runs++
		if !waits[h.Unit] {
			first = append(first, fmt.Sprintf("wait for the end of %s, an earlier run, which may wait for the disk itself: "+
				"systemctl status %[1]s", h.Unit))
		}
		waits[h.Unit] = true
	}
	kernel := releases(holders)
	first = append(first, kernel...)
	if len(logins)+len(kernel)+runs == len(holders) {
		return strings.Join(first, "; ")
	}
	return strings.Join(append(first, "add the units to services, end the processes, or unmount; holders=stop ends processes, services=auto finds the units"), "; ")
}

// releases says for each thing that the kernel itself holds open how it lets go.
func releases(holders []filesystem.Holder) []string {
	var out []string
	for _, h := range holders {
		switch h.Kind {
		case "swap":
			out = append(out, "swapoff "+h.Path)
		case "loop":
			out = append(out, fmt.Sprintf("unmount what is on %s, then losetup -d %s", h.Path, h.Path))
		case "device":
			if h.How == "open" {
				out = append(out, fmt.Sprintf("no process has %s open, the kernel does, as for DRBD: end that", h.Path))
			}
		case "export":
			out = append(out, fmt.Sprintf("name nfs-server in services, or take the export away: exportfs -u CLIENT:%s", h.Path))
		case "target":
			out = append(out, fmt.Sprintf("no process holds %s, the kernel serves it as a disk (%s): end that", h.Path, h.How))
		case "socket":
			out = append(out, fmt.Sprintf("no process has the socket %s: it is being handed over; see ss -xp", h.Path))
		}
	}
	return out
}

// killable splits off the processes that may be ended: not the leaders of login sessions, sshd, or anything we are
// started by.
func killable(holders []filesystem.Holder) (kill []condemned, rest []filesystem.Holder) {
	above := ancestors(os.Getpid())
	for _, h := range holders {
		if h.Kind == "process" && h.PID > 1 && h.How != "automount" && !above[h.PID] && !spared(h) {
			p, _ := proc.Find(h.PID) // one that has ended meanwhile began at no time that another could have
			kill = append(kill, condemned{h, p.StartTicks})
		} else {
			rest = append(rest, h)
		}
	}
	return kill, rest
}

// pids are the processes behind the holders; behind a mount in another namespace, one that lives there.
func pids(holders []filesystem.Holder) []int {
	var out []int
	for _, h := range holders {
		if h.PID != 0 {
			out = append(out, h.PID)
		}
	}
	return out
}

// stillBusy adds to an error who holds the volumes open now.
func (w *walk) stillBusy(ctx context.Context, because error) error {
	volumes, snapshots, err := w.devices(ctx, w.state.Members)
	if err != nil {
		return because
	}
	devs := slices.Concat(volumes, snapshots)
	mounts, err := filesystem.Mounts()
	if err != nil {
		return because
	}
	var own []filesystem.Mount
	for _, dev := range devs {
		own = append(own, filesystem.On(mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil {
		return because
	}
	return fault.All(w.comeSince(holders, because), because)
}

// comeSince says who came to hold a volume open after the check found nobody, or after all were ended, or where nobody
// was found.
func (w *walk) comeSince(holders []filesystem.Holder, because error) error {
	const again = "something opens files there again and again: stop what does (name its unit in services), then run the same again"
	if len(holders) == 0 {
		nobody := fault.New(fault.Busy, "nothing is found that still holds a volume open; looked at were %s",
			filesystem.LookedAt)
		if fault.Of(because).Hint != "" {
			return nobody
		}
		return nobody.WithHint(again + "; if it stays so, the kernel itself holds it: umount and dmsetup info show it")
	}
	found := fault.Of(busy(holders, nil))
	if w.StopHolders {
		found = found.WithHint("holders=stop had ended what was there; " + again)
	}
	return found
}
