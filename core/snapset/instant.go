package snapset

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// Method is how writes to a member wait until its snapshot is taken.
type Method string

// The methods, in the order in which their members' snapshots are taken: a member whose instant is LVM's own comes
// first, while all others stand still. Nothing that is written to it meanwhile can depend on what is not written yet to
// the others.
const (
	ByLVM     Method = "lvm"     // lvcreate's own suspend: one member at most, or each by itself
	Closed    Method = "closed"  // nobody has it open
	ByFreeze  Method = "freeze"  // fsfreeze, then lvcreate
	BySuspend Method = "suspend" // dmsetup suspend, then lvcreate, which resumes it
)

var methodOrder = map[Method]int{ByLVM: 0, Closed: 1, ByFreeze: 2, BySuspend: 3}

// Kernel is what this kernel and this server allow.
type Kernel struct {
	// FrozenSnapshot says that a volume whose file system is frozen can be snapshotted. 6.12 can; 6.1 answers "Device
	// or resource busy" and leaves half-made volumes.
	FrozenSnapshot bool
	Release        string
	// Needed are the paths that must stay writable while a set is taken.
	Needed []string
}

// ThisKernel looks at the running kernel. needed are paths beside / and /etc/lvm that must stay writable.
func ThisKernel(needed ...string) (Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Kernel{}, fault.New(fault.Internal, "uname: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	return Kernel{FrozenSnapshot: atLeast(release, 6, 12), Release: release, Needed: needed}, nil
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
	if p.Each || len(p.Members) == 1 {
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
		switch method {
		case ByFreeze:
			m.Target = &filesystem.Target{Point: targets[i].Mounts[0].Point, Dev: targets[i].FS}
		case ByLVM:
			alone, why = append(alone, m.origin()), append(why, m.origin()+" ("+reason+")")
		}
	}
	if len(alone) <= 1 {
		return nil
	}
	return fault.New(fault.NoSingleInstant, "one instant cannot be had for all of %s: only one of them may be left to LVM's own suspend",
		strings.Join(why, ", ")).
		With("volumes", alone).
		WithHint("take them in sets of their own, stop what writes to them and unmount them first, or give consistency=volume if each may be of its own instant")
}

// methodOf returns the method for one target, and for ByLVM why there is no other.
func methodOf(t *Target, m *Member, mustLive map[filesystem.Dev]string, k Kernel) (Method, string) {
	if path, must := mustLive[t.FS]; must {
		return ByLVM, "it holds " + path + ", which is needed meanwhile"
	}
	if !t.LV.Open {
		return Closed, ""
	}
	mounted := len(t.Mounts) > 0
	switch {
	case mounted && (k.FrozenSnapshot || t.Crypt != ""):
		return ByFreeze, ""
	case !m.Thin:
		return BySuspend, ""
	case mounted:
		return ByLVM, "thin, and kernel " + k.Release + " cannot snapshot a frozen file system"
	}
	return ByLVM, "thin, and open without a mounted file system that could be frozen"
}
