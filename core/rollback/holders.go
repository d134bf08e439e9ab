package rollback

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/proc"
)

// holders are all that keep the volumes, their crypt devices and the set's snapshots open, but for the mounts that the
// rollback undoes itself.
func (w *walk) holders(ctx context.Context, f *found) ([]filesystem.Holder, error) {
	var devs []filesystem.Dev
	var own []filesystem.Mount
	for i := range f.targets {
		t := &f.targets[i]
		lv := filesystem.Dev{Major: uint32(t.LV.Major), Minor: uint32(t.LV.Minor)}
		devs = append(devs, t.FS)
		if lv != t.FS {
			devs = append(devs, lv)
		}
		own = append(own, w.ownMounts(t)...)
	}
	for _, v := range f.sight.snapshots {
		dev := filesystem.Dev{Major: uint32(v.Major), Minor: uint32(v.Minor)}
		devs = append(devs, dev)
		own = append(own, filesystem.On(f.sight.view.Mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil {
		return nil, err
	}
	holders = slices.DeleteFunc(holders, func(h filesystem.Holder) bool { return w.isOurCrypt(f, h) })
	return append(holders, below(f.sight.view.Mounts, own)...), nil
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
	if len(logins) == len(holders) {
		return first[0]
	}
	return strings.Join(append(first, "add the units to services, end the processes, or unmount; holders=stop ends processes, services=auto finds the units"), "; ")
}

// killable splits off the processes that may be ended: not the leaders of login sessions, sshd, or anything we are
// started by.
func killable(holders []filesystem.Holder) (kill []condemned, rest []filesystem.Holder) {
	above := ancestors(os.Getpid())
	for _, h := range holders {
		if h.Kind == "process" && h.PID > 1 && !above[h.PID] && !spared(h) {
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
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return because
	}
	var devs []filesystem.Dev
	for _, m := range w.state.Members {
		for _, name := range []string{m.DMName, m.SnapshotDM, m.Crypt} {
			if i, ok := info[name]; ok && name != "" {
				devs = append(devs, filesystem.Dev{Major: uint32(i.Major), Minor: uint32(i.Minor)})
			}
		}
	}
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

// comeSince says who came to hold a volume open after the check found nobody, or after all were ended; nil if because
// says all there is to say.
func (w *walk) comeSince(holders []filesystem.Holder, because error) error {
	const again = "something opens files there again and again: stop what does (name its unit in services), then run the same again"
	if len(holders) == 0 {
		if fault.Of(because).Hint == "" {
			return fault.New(fault.Busy, "whoever held a volume open has let go of it since").WithHint(again)
		}
		return nil
	}
	found := fault.Of(busy(holders, nil))
	if w.StopHolders {
		found = found.WithHint("holders=stop had ended what was there; " + again)
	}
	return found
}
