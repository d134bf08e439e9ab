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

// LVM returns an LVM whose programs and whose device-mapper this is.
func (f *Fake) LVM() *lvm.LVM { return lvm.New(f).On(f.Mapper).Locking(f.lock) }

// lock notes whose locks the process holds: an LVM command that needs one waits for ever.
func (f *Fake) lock(_ context.Context, groups []string, _ time.Duration) (lvm.Locks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locked = slices.Concat(f.locked, groups)
	return lvm.Locks{Release: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.locked = slices.DeleteFunc(f.locked, func(g string) bool { return slices.Contains(groups, g) })
	}}, nil
}

// mustNotWaitForItself holds a caller to letting go of a group before it has LVM work on it. A report is of all groups.
func (f *Fake) mustNotWaitForItself(argv, names []string) {
	for _, g := range f.locked {
		in := func(name string) bool { return name == g || strings.HasPrefix(name, g+"/") }
		free := slices.Contains(argv, "--readonly") || slices.Contains(argv, "--nolocking")
		if argv[0] == "lvm" && !free &&
			(argv[1] == "fullreport" || slices.ContainsFunc(names, in)) {
			panic(fmt.Sprintf("lvmtest: %q would wait for the lock of volume group %s, which its caller holds", argv, g))
		}
	}
}

// Mapper returns the fake's device-mapper. Each of its calls that changes
// something counts as a command, "device-mapper VERB DEVICE": FailAt makes it
// fail, and where DieAt or DieAfter strike, the process is dead from there on: no
// later call of its has an effect before Revive.
func (f *Fake) Mapper() (lvm.Mapper, error) { return mapper{f}, nil }

// Revive begins a new process after the death of the last one.
func (f *Fake) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.locked = false, nil
}

// Stick makes every suspend wait until the returned function is called, as one of
// a volume does whose disk does not answer; a signal does not end it.
func (f *Fake) Stick() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stuck := make(chan struct{})
	f.stuck = stuck
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stuck = nil
		close(stuck)
	}
}

// Suspend suspends a volume's device, as a command that was killed leaves it;
// with prepared there is also a table that was never made live.
func (f *Fake) Suspend(name string, prepared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.need(name)
	v.suspended = true
	if prepared {
		v.prepared = []lvm.Target{{Length: v.deviceSectors(), Type: "error"}}
	}
}

// Mapped returns the type of a volume's live table that is not LVM's own, and
// whether one is prepared.
func (f *Fake) Mapped(name string) (foreign string, prepared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.need(name)
	if len(v.live) > 0 {
		foreign = v.live[0].Type
	}
	return foreign, v.prepared != nil
}

// OneInstant reports whether the snapshots were all made while every one of
// their origins was suspended, and none was resumed in between.
func (f *Fake) OneInstant(snapshots ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range snapshots {
		v := f.need(name)
		for _, other := range snapshots {
			origin := f.need(other).vg.byUUID(f.need(other).originUUID)
			at, suspended := v.madeAt[origin]
			if first := f.need(snapshots[0]).madeAt[origin]; !suspended || at != first {
				return false
			}
		}
	}
	return true
}

type mapper struct{ f *Fake }

func (m mapper) Close() error { return nil }

// device finds the volume behind a device, its COW space's, its inner one's or its pool's.
func (m mapper) device(name string) (v *volume, layer string, err error) {
	for _, layer := range []string{"", "-cow", "-real", "-tpool"} {
		if bare, ok := strings.CutSuffix(name, layer); ok {
			if v := m.f.byDevice(bare); v != nil && v.has(layer) {
				return v, layer, nil
			}
		}
	}
	return nil, "", unix.ENXIO
}

// has reports whether a volume has the device of that layer.
func (v *volume) has(layer string) bool {
	switch layer {
	case "-cow":
		return v.Kind == lvm.Snapshot
	case "-real":
		thick := func(s *volume) bool { return s.Kind == lvm.Snapshot }
		return v.layered || slices.ContainsFunc(v.vg.snapshots(v), thick)
	case "-tpool":
		return v.Kind == lvm.ThinPool
	}
	return true
}

// What is added to a volume's number for those of its inner devices.
const (
	cowMinor, realMinor, tpoolMinor = 10000, 20000, 30000
)

func numbered(minor int) string { return fmt.Sprintf("%d:%d", major, minor) }

func (m mapper) Mapping(device string) (lvm.Mapping, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	v, layer, err := m.device(device)
	if err != nil {
		return lvm.Mapping{}, fault.New(fault.NotFound, "table of %s: there is no such device", device)
	}
	number := v.minor + map[string]int{"-cow": cowMinor, "-real": realMinor, "-tpool": tpoolMinor}[layer]
	out := lvm.Mapping{Major: major, Minor: number, Table: v.table(layer), Suspended: v.suspended && layer == "",
		Prepared: v.prepared != nil}
	return out, nil
}

func (v *volume) table(layer string) []lvm.Target {
	t := lvm.Target{Length: v.deviceSectors(), Type: "linear"}
	switch {
	case layer == "-tpool":
		t.Type = "thin-pool"
	case layer != "":
	case v.live != nil:
		return v.live
	case v.Kind == lvm.Snapshot && !v.halfMade:
		origin := v.vg.byUUID(v.originUUID)
		t.Type, t.Args = "snapshot", []string{numbered(origin.minor + realMinor), numbered(v.minor + cowMinor), "P", "8"}
	case v.Kind == lvm.Thin:
		t.Type, t.Args = "thin", []string{numbered(v.vg.volume(v.Pool).minor + tpoolMinor), fmt.Sprint(v.thinID)}
	case len(v.vg.snapshots(v)) > 0:
		t.Type = "snapshot-origin"
	}
	return []lvm.Target{t}
}

// act is one call that changes something, with what a test wants to happen at it.
func (m mapper) act(verb, device string, do func(v *volume) error) (err error) {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return unix.EIO
	}
	argv := []string{"device-mapper", verb, device}
	f.ran = append(f.ran, argv)
	n := len(f.ran)
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
	if err := f.refused(argv); err != nil {
		return err
	}
	v, _, err := m.device(device)
	if err == nil {
		err = do(v)
	}
	if after := f.after[n]; after != nil {
		after(argv)
	}
	return err
}

func (m mapper) Load(device string, table []lvm.Target) error {
	return wrapped("load a table into", device, m.act("load", device, func(v *volume) error {
		v.prepared = table
		return nil
	}))
}

func (m mapper) Clear(device string) error {
	return wrapped("clear the prepared table of", device, m.act("clear", device, func(v *volume) error {
		v.prepared = nil
		return nil
	}))
}

func (m mapper) Remove(device string) error {
	return wrapped("remove", device, m.act("remove", device, func(v *volume) error {
		v.layered = false
		return nil
	}))
}

func (m mapper) Blank(device string, _ int) error {
	return wrapped("blank", device, m.act("blank", device, func(v *volume) error {
		if len(v.live) == 0 || v.live[0].Type != "zero" {
			panic("lvmtest: the header of " + device + " is blanked while the kernel uses it")
		}
		v.used = headerSectors
		return nil
	}))
}

func wrapped(what, device string, err error) error {
	if err == nil {
		return nil
	}
	if err == unix.ENXIO {
		return fault.New(fault.NotFound, "%s %s: there is no such device", what, device)
	}
	return fault.New(fault.CommandFailed, "%s %s: %w", what, device, err)
}

func (m mapper) Suspend(device string) func() error {
	return func() error {
		m.f.mu.Lock()
		stuck := m.f.stuck
		m.f.mu.Unlock()
		if stuck != nil {
			<-stuck
		}
		return m.act("suspend", device, func(v *volume) error {
			if v.frozen && !m.f.thawed {
				return unix.EBUSY
			}
			if v.prepared != nil {
				panic("lvmtest: " + device + " is to be suspended and has a prepared table")
			}
			v.suspended = true
			return nil
		})
	}
}

func (m mapper) Resume(device string) func() error {
	return func() error {
		return m.act("resume", device, func(v *volume) error {
			if v.prepared != nil {
				v.live, v.prepared = v.prepared, nil
				if v.live[0].Type == "snapshot" {
					m.f.makeLive(v)
				}
			}
			v.resume()
			return nil
		})
	}
}

// Message makes and deletes thin snapshots by their numbers, as a pool does.
func (m mapper) Message(device, text string) func() error {
	return func() error {
		return m.act("message", device, func(pool *volume) error {
			var id, origin int
			if n, _ := fmt.Sscanf(text, "delete %d", &id); n == 1 {
				return pool.deleteThin(id)
			}
			if n, _ := fmt.Sscanf(text, "create_snap %d %d", &id, &origin); n == 2 {
				return m.f.createSnap(pool, id, origin)
			}
			panic("lvmtest: unknown message " + text)
		})
	}
}

func (pool *volume) thin(id int) *volume {
	for _, v := range pool.vg.volumes {
		if v.Kind == lvm.Thin && v.Pool == pool.Name && v.thinID == id {
			return v
		}
	}
	return nil
}

func (pool *volume) deleteThin(id int) error {
	v := pool.thin(id)
	switch {
	case v == nil || v.deleted:
		return unix.ENODATA
	case v.active:
		return unix.EBUSY
	}
	v.deleted = true
	return nil
}

func (f *Fake) createSnap(pool *volume, id, origin int) error {
	v, from := pool.thin(id), pool.thin(origin)
	switch {
	case v == nil || from == nil || v.originUUID != from.uuid:
		panic(fmt.Sprintf("lvmtest: create_snap of %d from %d: LVM knows no such snapshot", id, origin))
	case !v.deleted:
		return unix.EEXIST
	case !from.suspended:
		panic("lvmtest: create_snap of " + from.fullName() + ", which is not suspended")
	}
	v.deleted = false
	f.makeLive(v)
	return nil
}

func (v *volume) resume() {
	v.suspended = false
	v.resumes++
}

// makeLive has LVM's own table of a snapshot be the live one, and notes which volumes were suspended when it began to
// record, or when its pool made it.
func (f *Fake) makeLive(v *volume) {
	v.live, v.prepared = nil, nil
	v.madeAt = map[*volume]int{}
	for _, o := range f.allVolumes() {
		if o.suspended {
			v.madeAt[o] = o.resumes
		}
	}
}

func (m mapper) Held(device string) func() (bool, error) {
	return m.now(device, func(v *volume) bool { return v.suspended })
}

func (m mapper) Prepared(device string) func() (bool, error) {
	return m.now(device, func(v *volume) bool { return v.prepared != nil })
}

func (m mapper) now(device string, is func(v *volume) bool) func() (bool, error) {
	return func() (bool, error) {
		m.f.mu.Lock()
		defer m.f.mu.Unlock()
		v, _, err := m.device(device)
		if err != nil {
			return false, err
		}
		return is(v), nil
	}
}
