package snapset

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// Method is how it comes that nobody writes to a member at the set's instant.
type Method string

// The methods. Thick volumes of a set are held. LVM makes thin snapshots by a message to their pool, which has to come
// from LVM; nobody writes to them while it does.
const (
	// ByLVM is lvcreate's own suspend: a set of one, each by itself, or one member that LVM alone can take.
	ByLVM Method = "lvm"
	// Closed is a member that nobody has open.
	Closed Method = "closed"
	// ByFreeze is fsfreeze, then lvcreate: thin.
	ByFreeze Method = "freeze"
	// Held is lvcreate, whose snapshot is made anew at the instant, while device-mapper holds all writes: thick.
	Held Method = "hold"
)

// Kernel is what this kernel and this server allow.
type Kernel struct {
	// FrozenSnapshot says that a volume whose file system is frozen can be snapshotted. 6.12 can; 6.1 answers "Device
	// or resource busy" and leaves half-made volumes.
	FrozenSnapshot bool
	Release        string
	// Needed are the paths that must stay writable while LVM takes a thin snapshot.
	Needed []string
	// Journal is where the journal lies.
	Journal string
}

// ThisKernel looks at the running kernel. journal, and the paths that are needed beside / and /etc/lvm, must stay
// writable while LVM works.
func ThisKernel(journal string, needed ...string) (Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Kernel{}, fault.New(fault.Internal, "uname: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	return Kernel{FrozenSnapshot: atLeast(release, 6, 12), Release: release, Needed: append(needed, journal),
		Journal: journal}, nil
}

// atLeast compares a release such as 6.1.0-37-cloud-amd64; one that cannot be read is old.
func atLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	have, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	end := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(parts[1])
	}
	low, err := strconv.Atoi(parts[1][:end])
	return err == nil && (have > major || have == major && low >= minor)
}

// choose gives every member its method, or says why no single instant can be had.
func (v *View) choose(p *Plan, targets []Target, k Kernel) error {
	home, _ := filesystem.Holding(v.Mounts, k.Journal)
	for i, m := range p.Members {
		m.Home = k.Journal != "" && len(targets[i].Mounts) > 0 && targets[i].FS == home.Dev
	}
	if !p.late() || p.Each {
		for _, m := range p.Members {
			m.Method = ByLVM
		}
		return nil
	}
	mustLive := filesystem.MustNotFreeze(v.Mounts, k.Needed...)
	var alone, why []string
	for i, m := range p.Members {
		method, reason := methodOf(&targets[i], m, mustLive, k)
		m.Method = method
		frozen := method == ByFreeze || method == Held && targets[i].Crypt != "" && len(targets[i].Mounts) > 0
		if frozen {
			m.Target = &filesystem.Target{Point: targets[i].Mounts[0].Point, Dev: targets[i].FS}
		}
		if method == ByLVM {
			alone, why = append(alone, m.origin()), append(why, m.origin()+" ("+reason+")")
		}
	}
	if len(alone) > 1 {
		return noInstant(alone, "one instant cannot be had for all of %s: only one of them may be left to LVM's own "+
			"suspend", strings.Join(why, ", "))
	}
	if m := p.alone(); m != nil {
		if group, ok := v.Report.Group(m.VG); ok {
			m.Devices = group.Devices()
		}
	}
	return v.neededByLVM(p, targets, mustLive)
}

// neededByLVM refuses a set in which LVM has to work while a volume that LVM needs stands still.
func (v *View) neededByLVM(p *Plan, targets []Target, mustLive map[filesystem.Dev]string) error {
	alone, working := p.alone(), p.frozenThin()
	if alone != nil {
		working = append(working, alone)
	}
	if len(working) == 0 {
		return nil
	}
	for i, m := range p.Members {
		path, needed := mustLive[targets[i].FS]
		stopped := m.Target != nil || m.Method == Held && alone != nil
		if needed && stopped {
			return noInstant([]string{m.origin(), working[0].origin()},
				"one instant cannot be had for %s and %s: the first holds %s, which LVM needs while it takes the second, a "+
					"thin volume",
				m.origin(), working[0].origin(), path)
		}
	}
	return nil
}

func noInstant(volumes []string, format string, a ...any) error {
	return fault.New(fault.NoSingleInstant, format, a...).With("volumes", volumes).
		WithHint("take them in sets of their own, stop what writes to them and unmount them first, or give consistency=volume if each may be of its own instant")
}

// methodOf returns the method for one target, and for ByLVM why there is no other.
func methodOf(t *Target, m *Member, mustLive map[filesystem.Dev]string, k Kernel) (Method, string) {
	if !t.LV.Active || m.Thin && !t.LV.Open {
		return Closed, ""
	}
	if !m.Thin {
		return Held, ""
	}
	if path, must := mustLive[t.FS]; must {
		return ByLVM, "thin, and it holds " + path + ", which is needed meanwhile"
	}
	mounted := len(t.Mounts) > 0
	switch {
	case mounted && (k.FrozenSnapshot || t.Crypt != ""):
		return ByFreeze, ""
	case mounted:
		return ByLVM, "thin, and kernel " + k.Release + " cannot snapshot a frozen file system"
	}
	return ByLVM, "thin, and open without a mounted file system that could be frozen"
}
