package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/snapset"
)

// Action is what an administrator does to a volume.
type Action struct {
	Verb   string
	Volume string // vg/lv
	Name   string // a new name, without the group
	Number int64  // MiB, percent or a count
}

func (a Action) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %d", a.Verb, a.Volume, a.Name, a.Number))
}

// The verbs of actions.
const (
	removes   = "removes"
	renames   = "renames"
	extends   = "extends to MiB"
	fills     = "fills to percent"
	writes    = "writes MiB to"
	snapshots = "takes a snapshot of"
	makes     = "makes a volume beside"
	untags    = "takes out of its set"
	opens     = "opens"
	closes    = "closes"
	refreshes = "refreshes"
	activates = "activates"
	resumes   = "resumes the device of" // with dmsetup, which knows no locks
	starts    = "starts"                // a service
	kills     = "kills LVM's poller"
)

// volume is what an action is drawn from.
type volume struct {
	name     string // vg/lv
	kind     lvm.Kind
	snapshot bool
	open     bool
	sizeMiB  int64
	member   bool // of a whole set
}

// drawServerAction draws what an administrator does to something other than a volume.
func drawServerAction(r *rand.Rand, daemons []Daemon) Action {
	if i := r.IntN(len(daemons) + 1); i < len(daemons) {
		return Action{Verb: starts, Volume: daemons[i].Name}
	}
	return Action{Verb: kills}
}

// drawAction draws what an administrator does, or an Action without Verb.
func drawAction(r *rand.Rand, volumes []volume) Action {
	var some []volume
	for _, v := range volumes {
		if v.kind != lvm.ThinPool {
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		return Action{}
	}
	v := some[r.IntN(len(some))]
	a := Action{Volume: v.name}
	_, lv, _ := strings.Cut(v.name, "/")
	verbs := []string{renames, extends, snapshots, makes, refreshes, activates, resumes}
	switch {
	case v.snapshot:
		verbs = append(verbs, removes, removes, removes, opens, closes)
		if v.member {
			verbs = append(verbs, untags)
		}
		if v.kind == lvm.Snapshot {
			verbs = append(verbs, fills, fills, fills)
		}
	case !v.open:
		verbs = append(verbs, removes, writes)
	default:
		verbs = append(verbs, writes, writes)
	}
	a.Verb = verbs[r.IntN(len(verbs))]
	switch a.Verb {
	case renames:
		a.Name = lv + "_kept"
	case extends:
		a.Number = v.sizeMiB + 32
	case fills:
		a.Number = []int64{50, 99, 100}[r.IntN(3)]
	case writes:
		a.Number = []int64{1, 20, 200}[r.IntN(3)]
	case snapshots:
		a.Name = lv + []string{"_s", "_mine"}[r.IntN(2)]
		a.Number = int64(r.IntN(2)) // 1: thick, of a thin volume, too
	case makes:
		a.Name, a.Number = "new", 64
	}
	return a
}

// isCommand reports whether the action is an LVM command, which waits for the lock of its group.
func (a Action) isCommand() bool {
	switch a.Verb {
	case fills, writes, opens, closes, resumes, starts, kills:
		return false
	}
	return true
}

// performOnServer does an action that is about no volume. It returns false if it is about one.
func (m *machine) performOnServer(a Action) bool {
	switch a.Verb {
	case starts:
		_ = m.systemd.AdminStart(a.Volume)
	case kills:
		m.fake.KillPoller()
	default:
		return false
	}
	return true
}

// perform does the action on the machine, if it can still be done.
func (m *machine) perform(a Action) {
	if m.performOnServer(a) {
		return
	}
	vg, lv, _ := strings.Cut(a.Volume, "/")
	v, exists := m.volume(vg, lv)
	if !exists {
		return
	}
	_, taken := m.volume(vg, a.Name)
	if a.Name != "" && taken {
		return
	}
	if argv := m.argvOf(a, &v); argv != nil {
		_, _ = m.fake.Run(context.Background(), command.Cmd{Argv: argv})
		return
	}
	m.performOn(a, &v)
}

// performOn does an action that is no LVM command of the fake on a volume.
func (m *machine) performOn(a Action, v *lvm.Volume) {
	switch a.Verb {
	case renames:
		m.fake.Rename(a.Volume, a.Name)
	case makes:
		if g, ok := m.report().Group(v.VG); ok && g.Free >= a.Number*mib {
			m.fake.Make(v.VG, lvmtest.Volume{Name: a.Name, Size: a.Number * mib})
		}
	case resumes:
		m.resume(v)
	case fills:
		if v.Kind == lvm.Snapshot {
			m.fake.Fill(a.Volume, float64(a.Number))
		}
	case writes:
		m.noteWrite(a.Volume, func() { m.fake.Write(a.Volume, a.Number*mib) })
	case opens:
		if v.Active {
			m.kernel.open(v, administratorName)
		}
	case closes:
		m.kernel.close(administratorName)
	}
}

// resume resumes a device as dmsetup does. Who resumes an origin that a killed command has left half made gets what
// that command had prepared: nobody does that here.
func (m *machine) resume(v *lvm.Volume) {
	_, prepared := m.fake.Mapped(v.FullName())
	mapper, err := m.fake.Mapper()
	if err != nil || !v.Active || prepared && !v.IsSnapshot() {
		return
	}
	_ = mapper.Resume(v.DMName)()
}

// argvOf returns the LVM command that is the action.
func (m *machine) argvOf(a Action, v *lvm.Volume) []string {
	switch a.Verb {
	case removes:
		return []string{"lvm", "lvremove", "--yes", "--", a.Volume}
	case extends:
		return []string{"lvm", "lvextend", "--yes", "--size", fmt.Sprintf("%db", a.Number*mib), "--", a.Volume}
	case refreshes:
		return []string{"lvm", "lvchange", "--refresh", "--", a.Volume}
	case activates:
		return []string{"lvm", "lvchange", "--activate", "y", "--ignoreactivationskip", "--", a.Volume}
	case untags: // only of a whole set: who would do so while the set is being taken?
		if tag := idTag(v); tag != "" && isMember(v) {
			return []string{"lvm", "lvchange", "--deltag", tag, "--", a.Volume}
		}
	case snapshots:
		argv := []string{"lvm", "lvcreate", "--yes", "--snapshot", "--name", a.Name}
		switch {
		case v.Kind == lvm.Thin && a.Number == 0:
			argv = append(argv, "--setactivationskip", "n")
		case v.Kind == lvm.Snapshot:
			return nil
		default:
			argv = append(argv, "--extents", "8", "--chunksize", "4096b")
		}
		return append(argv, "--", a.Volume)
	}
	return nil
}

// isMember reports whether a volume belongs to a whole set.
func isMember(v *lvm.Volume) bool {
	label, inSet := snapset.LabelOf(v)
	return inSet && label.Count > 0
}

// idTag returns the tag that makes a volume belong to a set.
func idTag(v *lvm.Volume) string {
	for _, tag := range v.Tags {
		if strings.HasPrefix(tag, "rewind:id=") {
			return tag
		}
	}
	return ""
}
