package lvmtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// LVM returns an lvm.LVM that runs its commands, takes its locks and changes its devices on the fake.
func (f *Fake) LVM() *lvm.LVM { return lvm.New(f).On(f.Mapper).Locking(f.LockGroups) }

// LockGroups is the fake's lvm.Locker. An LVM command that needs one of these locks would wait for ever, so the fake
// panics at such a command.
func (f *Fake) LockGroups(_ context.Context, groups []string, _ time.Duration) (lvm.Locks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lockedGroups = slices.Concat(f.lockedGroups, groups)
	return lvm.Locks{Release: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lockedGroups = slices.DeleteFunc(f.lockedGroups, func(g string) bool { return slices.Contains(groups, g) })
	}}, nil
}

// panicIfWaitingForOwnLock panics if a command needs the lock of a group that its caller holds. A report needs the
// locks of all groups.
func (f *Fake) panicIfWaitingForOwnLock(argv, names []string) {
	for _, g := range f.lockedGroups {
		isInGroup := func(name string) bool { return name == g || strings.HasPrefix(name, g+"/") }
		takesNoLock := slices.Contains(argv, "--readonly") || slices.Contains(argv, "--nolocking")
		if argv[0] == "lvm" && !takesNoLock &&
			(argv[1] == "fullreport" || slices.ContainsFunc(names, isInGroup)) {
			panic(fmt.Sprintf("lvmtest: %q would wait for the lock of volume group %s, which its caller holds", argv, g))
		}
	}
}

// Mapper returns the fake's device-mapper. Each call that changes something counts as a command, "device-mapper VERB
// DEVICE", and FailAt can make it fail. If DieAt or DieAfter are set for such a call, it does not panic: the process
// counts as dead, and no further call of the Mapper has an effect until Revive. A command then panics with Died.
func (f *Fake) Mapper() (lvm.Mapper, error) { return mapper{f}, nil }

// Revive starts a new process after the last one has died. It holds no locks.
func (f *Fake) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.lockedGroups = false, nil
}

// Stick makes every suspend wait until the returned function is called, like the suspend of a volume whose disk does
// not answer. A signal does not end the wait.
func (f *Fake) Stick() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	f.suspendGate = gate
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.suspendGate = nil
		close(gate)
	}
}

// Suspend suspends a volume's device, as a command that was killed leaves it. With prepared set, the device also has a
// prepared table that was never made live.
func (f *Fake) Suspend(name string, prepared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.mustFind(name)
	v.suspended = true
	if prepared {
		v.preparedTable = []lvm.Target{{Length: v.deviceSectors(), Type: "error"}}
	}
}

// Mapped returns the target type of a volume's live table if a Mapper has loaded that table, or "" if it is LVM's own.
// It also returns whether a table is prepared.
func (f *Fake) Mapped(name string) (foreign string, prepared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.mustFind(name)
	if len(v.liveTable) > 0 {
		foreign = v.liveTable[0].Type
	}
	return foreign, v.preparedTable != nil
}

// OneInstant reports whether all of the snapshots were made while every one of their origins was suspended, and no
// origin was resumed between the first and the last snapshot.
func (f *Fake) OneInstant(snapshots ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range snapshots {
		v := f.mustFind(name)
		for _, other := range snapshots {
			origin := f.mustFind(other).vg.byUUID(f.mustFind(other).originUUID)
			resumes, suspended := v.suspendedAtStart[origin]
			if firstResumes := f.mustFind(snapshots[0]).suspendedAtStart[origin]; !suspended || resumes != firstResumes {
				return false
			}
		}
	}
	return true
}

// mapper is the fake's device-mapper.
type mapper struct{ f *Fake }

func (m mapper) Close() error { return nil }

// find returns the volume that a device belongs to, and the layer of the device: "" for the volume itself, "-cow" for
// its COW space, "-real" for its inner device, "-tpool" for the device with a pool's target.
func (m mapper) find(name string) (v *volume, layer string, err error) {
	for _, layer := range []string{"", "-cow", "-real", "-tpool"} {
		if bare, ok := strings.CutSuffix(name, layer); ok {
			if v := m.f.volumeOfDevice(bare); v != nil && v.hasLayer(layer) {
				return v, layer, nil
			}
		}
	}
	return nil, "", unix.ENXIO
}

// hasLayer reports whether a volume has the device of that layer.
func (v *volume) hasLayer(layer string) bool {
	switch layer {
	case "-cow":
		return v.Kind == lvm.Snapshot
	case "-real":
		thick := func(s *volume) bool { return s.Kind == lvm.Snapshot }
		return v.hasInner || slices.ContainsFunc(v.vg.snapshots(v), thick)
	case "-tpool":
		return v.Kind == lvm.ThinPool
	}
	return true
}

// The minor numbers of a volume's other layers are the volume's own plus these.
const (
	cowMinor, realMinor, tpoolMinor = 10000, 20000, 30000
)

func deviceNumber(minor int) string { return fmt.Sprintf("%d:%d", major, minor) }

func (m mapper) Mapping(device string) (lvm.Mapping, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	v, layer, err := m.find(device)
	if err != nil {
		return lvm.Mapping{}, fault.New(fault.NotFound, "table of %s: there is no such device", device)
	}
	number := v.minor + map[string]int{"-cow": cowMinor, "-real": realMinor, "-tpool": tpoolMinor}[layer]
	out := lvm.Mapping{Major: major, Minor: number, Table: v.tableOf(layer), Suspended: v.suspended && layer == "",
		Prepared: v.preparedTable != nil}
	return out, nil
}

// tableOf returns the live table of one of the volume's layers.
func (v *volume) tableOf(layer string) []lvm.Target {
	t := lvm.Target{Length: v.deviceSectors(), Type: "linear"}
	switch {
	case layer == "-tpool":
		t.Type = "thin-pool"
	case layer != "":
	case v.liveTable != nil:
		return v.liveTable
	case v.Kind == lvm.Snapshot && !v.halfMade:
		origin := v.vg.byUUID(v.originUUID)
		inner, cow := deviceNumber(origin.minor+realMinor), deviceNumber(v.minor+cowMinor)
		t.Type, t.Args = "snapshot", []string{inner, cow, "P", "8"}
	case v.Kind == lvm.Thin:
		t.Type, t.Args = "thin", []string{deviceNumber(v.vg.volume(v.Pool).minor + tpoolMinor), fmt.Sprint(v.thinID)}
	case len(v.vg.snapshots(v)) > 0:
		t.Type, t.Args = "snapshot-origin", []string{deviceNumber(v.minor + realMinor)}
	}
	return []lvm.Target{t}
}

// change makes a call that changes something. It counts as a command, so FailAt, FailOn, DieAt and DieAfter work on it.
func (m mapper) change(verb, device string, apply func(v *volume) error) (err error) {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return unix.EIO
	}
	argv := []string{"device-mapper", verb, device}
	f.commands = append(f.commands, argv)
	n := len(f.commands)
	defer func() {
		if p := recover(); p != nil {
			if _, died := p.(Died); !died {
				panic(p)
			}
			f.dead, err = true, unix.EIO
		}
	}()
	if before := f.before[n]; before != nil {
		if err := before(argv); err != nil {
			return err
		}
	}
	if err := f.takeFailure(argv); err != nil {
		return err
	}
	v, _, err := m.find(device)
	if err == nil {
		err = apply(v)
	}
	if after := f.after[n]; after != nil {
		after(argv)
	}
	return err
}

func (m mapper) Load(device string, table []lvm.Target) error {
	return deviceFault("load a table into", device, m.change("load", device, func(v *volume) error {
		v.preparedTable = table
		return nil
	}))
}

func (m mapper) Clear(device string) error {
	return deviceFault("clear the prepared table of", device, m.change("clear", device, func(v *volume) error {
		v.preparedTable = nil
		return nil
	}))
}

func (m mapper) Remove(device string) error {
	return deviceFault("remove", device, m.change("remove", device, func(v *volume) error {
		v.hasInner = false
		return nil
	}))
}

func (m mapper) Blank(device string, _ int) error {
	return deviceFault("blank", device, m.change("blank", device, func(v *volume) error {
		if len(v.liveTable) == 0 || v.liveTable[0].Type != "zero" {
			panic("lvmtest: the header of " + device + " is blanked while the kernel uses it")
		}
		v.usedSectors = headerSectors
		return nil
	}))
}

// deviceFault returns the fault that this host's Mapper would return for err; nil for nil.
func deviceFault(action, device string, err error) error {
	if err == nil {
		return nil
	}
	if err == unix.ENXIO {
		return fault.New(fault.NotFound, "%s %s: there is no such device", action, device)
	}
	return fault.New(fault.CommandFailed, "%s %s: %w", action, device, err)
}

func (m mapper) Suspend(device string) func() error {
	return func() error {
		m.f.mu.Lock()
		gate := m.f.suspendGate
		m.f.mu.Unlock()
		if gate != nil {
			<-gate
		}
		return m.change("suspend", device, func(v *volume) error {
			if v.frozen && !m.f.suspendsFrozen {
				return unix.EBUSY
			}
			if v.preparedTable != nil {
				panic("lvmtest: " + device + " is to be suspended and has a prepared table")
			}
			v.suspended = true
			return nil
		})
	}
}

func (m mapper) Resume(device string) func() error {
	return func() error {
		return m.change("resume", device, func(v *volume) error {
			if v.preparedTable != nil {
				v.liveTable, v.preparedTable = v.preparedTable, nil
				if v.liveTable[0].Type == "snapshot" {
					m.f.makeLive(v)
				}
			}
			v.resume()
			return nil
		})
	}
}

// Message makes and deletes thin snapshots by their ids, as a pool does.
func (m mapper) Message(device, text string) func() error {
	return func() error {
		return m.change("message", device, func(pool *volume) error {
			var id, origin int
			if n, _ := fmt.Sscanf(text, "delete %d", &id); n == 1 {
				return pool.deleteThin(id)
			}
			if n, _ := fmt.Sscanf(text, "create_snap %d %d", &id, &origin); n == 2 {
				return m.f.createThinSnapshot(pool, id, origin)
			}
			panic("lvmtest: unknown message " + text)
		})
	}
}

// thinByID returns the pool's thin volume with that id; nil if LVM's metadata has none.
func (pool *volume) thinByID(id int) *volume {
	for _, v := range pool.vg.volumes {
		if v.Kind == lvm.Thin && v.Pool == pool.Name && v.thinID == id {
			return v
		}
	}
	return nil
}

func (pool *volume) deleteThin(id int) error {
	v := pool.thinByID(id)
	switch {
	case v == nil || v.deletedInPool:
		return unix.ENODATA
	case v.active:
		return unix.EBUSY
	}
	v.deletedInPool = true
	return nil
}

func (f *Fake) createThinSnapshot(pool *volume, id, origin int) error {
	snapshot, originVolume := pool.thinByID(id), pool.thinByID(origin)
	switch {
	case snapshot == nil || originVolume == nil || snapshot.originUUID != originVolume.uuid:
		panic(fmt.Sprintf("lvmtest: create_snap of %d from %d: LVM knows no such snapshot", id, origin))
	case !snapshot.deletedInPool:
		return unix.EEXIST
	case !originVolume.suspended:
		panic("lvmtest: create_snap of " + originVolume.fullName() + ", which is not suspended")
	}
	snapshot.deletedInPool = false
	f.makeLive(snapshot)
	return nil
}

func (v *volume) resume() {
	v.suspended = false
	v.resumeCount++
}

// makeLive makes LVM's own table of a snapshot the live one. A thick snapshot begins to record then, and a thin one is
// made by its pool. makeLive keeps which volumes were suspended at that moment, and how often each had been resumed
// before, for OneInstant.
func (f *Fake) makeLive(v *volume) {
	v.liveTable, v.preparedTable = nil, nil
	if origin := v.vg.byUUID(v.originUUID); origin != nil {
		v.content = origin.content
	}
	v.suspendedAtStart = map[*volume]int{}
	for _, o := range f.allVolumes() {
		if o.suspended {
			v.suspendedAtStart[o] = o.resumeCount
		}
	}
}

func (m mapper) Held(device string) func() (bool, error) {
	return m.query(device, func(v *volume) bool { return v.suspended })
}

func (m mapper) Prepared(device string) func() (bool, error) {
	return m.query(device, func(v *volume) bool { return v.preparedTable != nil })
}

// query returns a call that asks for something of a device.
func (m mapper) query(device string, ask func(v *volume) bool) func() (bool, error) {
	return func() (bool, error) {
		m.f.mu.Lock()
		defer m.f.mu.Unlock()
		v, _, err := m.find(device)
		if err != nil {
			return false, err
		}
		return ask(v), nil
	}
}
