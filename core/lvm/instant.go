package lvm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
)

// Pair is a snapshot and its origin, by the names of their devices.
type Pair struct {
	Origin, Snapshot string

	// Thin says which snapshot it is in its pool; nil: a thick one.
	Thin *ThinSnapshot

	// Log says that it holds the log or journal of another origin's file system.
	// It is suspended when that one is, whose suspend still writes to it, and
	// resumed before.
	Log bool
}

// Instant gives snapshots that LVM has made, each at a moment of its own, one
// common moment. It changes what device-mapper has of them and nothing of LVM's
// metadata.
//
// PrepareInstant takes each thick snapshot's table out of use, which lets go of
// what the snapshot has recorded so far, blanks the header of its COW space, and
// loads the table again without making it live. A thin one it deletes from its
// pool. Take then suspends all origins, makes the thick snapshots' tables live,
// which from there on record what changes on the origins, has the pools make the
// thin ones anew under the same number, and resumes the origins.
//
// No program runs and no file is opened while an origin is suspended, so it may
// be the volume that holds the programs, LVM's own files or the swap space. An
// origin has no prepared table of its own then: whatever happens, resuming it
// lets writes go on as before. What the snapshots hold after a Take that failed
// is of no common moment: the caller removes them.
type Instant struct {
	mapper  Mapper
	memory  func() (unlock func(), err error)
	locks   Locks // of the groups
	members []*member
	late    bool // a suspend is still under way, and is undone when it comes back
}

// member is one origin with its snapshot, and the calls that are made while it is held.
type member struct {
	Pair
	suspend, resume, start func() error
	held                   func() (bool, error)
	prepared               func() (bool, error) // the snapshot's table; nil: thin
	state                  atomic.Int32
	thread                 atomic.Int32 // that suspends it
	ended                  time.Time    // when it was resumed
}

// The states of a member's origin.
const (
	running int32 = iota
	suspending
	held
	starting // held until its thin snapshot is made, whatever ends meanwhile
	released
)

// headerBytes is what is blanked of a COW space: its first chunk begins with the
// header, which makes the kernel read all that follows as what it has written
// (linux, drivers/md/dm-snap-persistent.c).
const headerBytes = 4096

// ErrSuspending says that a suspend could be neither awaited nor called off.
// This process resumes the volume when the suspend comes back, if it lives to
// see it; Unsuspend does so after its end.
var ErrSuspending = errors.New("its suspend is still under way, and is undone when it comes back")

// PrepareInstant makes snapshots ready for Take. Nothing is suspended, and
// writes to the origins go on. Until Close no LVM command changes anything in
// the groups: they wait. limit bounds the wait for a command that is under way.
//
// Faults: locked if another LVM command keeps a group's lock; busy if one worked
// on a snapshot that is made ready; unsupported if a device is not what LVM makes
// of a snapshot, or LVM locks groups elsewhere; command_failed. After one the snapshots are of no use.
func (l *LVM) PrepareInstant(
	ctx context.Context, pairs []Pair, groups []string, limit time.Duration,
) (*Instant, error) {
	m, err := l.mapper()
	if err != nil {
		return nil, err
	}
	i := &Instant{mapper: m, memory: l.memory, locks: Locks{Release: func() {}}}
	if len(groups) > 0 {
		if i.locks, err = l.lock(ctx, groups, limit); err != nil {
			return nil, fault.All(err, i.Close())
		}
	}
	ids, err := l.thinIDs(ctx, pairs)
	if err != nil {
		return nil, fault.All(err, i.Close())
	}
	for _, p := range logsFirst(pairs) {
		prepare := i.prepareThick
		if p.Thin != nil {
			prepare = func(p Pair) error { return i.prepareThin(p, ids) }
		}
		if err := prepare(p); err != nil {
			return nil, fault.All(err, i.Close())
		}
	}
	return i, nil
}

// logsFirst is the order in which origins are resumed.
func logsFirst(pairs []Pair) []Pair {
	var logs, files []Pair
	for _, p := range pairs {
		if p.Log {
			logs = append(logs, p)
		} else {
			files = append(files, p)
		}
	}
	return append(logs, files...)
}

// Close lets go of the groups' locks. It may be called again.
func (i *Instant) Close() error {
	i.locks.Release()
	if i.late { // its resume needs the mapper
		return nil
	}
	return i.mapper.Close()
}

func (i *Instant) prepareThick(p Pair) error {
	snapshot, err := i.mapper.Mapping(p.Snapshot)
	if err != nil {
		return err
	}
	origin, err := i.mapper.Mapping(p.Origin)
	if err != nil {
		return err
	}
	if !kindIs(snapshot, "snapshot") || !kindIs(origin, "snapshot-origin") || len(snapshot.Table[0].Args) < 2 {
		return fault.New(fault.Unsupported, "%s and %s are not mapped as LVM maps a snapshot and its origin",
			p.Snapshot, p.Origin).
			With("tables", map[string]any{p.Snapshot: snapshot.Table, p.Origin: origin.Table})
	}
	if err := atRest(p.Origin, origin); err != nil {
		return err
	}
	// The COW space's device is known by its number, and by the name that LVM gives it (dev_manager.c, "cow").
	cow := p.Snapshot + "-cow"
	mapped, err := i.mapper.Mapping(cow)
	if err != nil {
		return err
	}
	if number := snapshot.Table[0].Args[1]; number != mapped.number() {
		return fault.New(fault.Unsupported, "%s has its COW space on %s, and %s is %s", p.Snapshot, number, cow,
			mapped.number())
	}
	for _, step := range []func() error{
		func() error { return i.loadNothing(p.Snapshot, snapshot.Table[0].Length) },
		func() error { return deviceFault("swap the table of", p.Snapshot, again(i.mapper.Resume(p.Snapshot))) },
		func() error { return i.mapper.Blank(cow, headerBytes) },
		func() error { return i.mapper.Load(p.Snapshot, snapshot.Table) },
	} {
		if err := step(); err != nil {
			return err
		}
		failpoint.Hit("instant.prepare")
	}
	if err := i.holdsNothing(p.Snapshot); err != nil {
		return err
	}
	i.add(p, i.mapper.Resume(p.Snapshot), i.mapper.Prepared(p.Snapshot))
	return nil
}

// add has Take take a snapshot by start, while its origin is held.
func (i *Instant) add(p Pair, start func() error, prepared func() (bool, error)) {
	i.members = append(i.members, &member{
		Pair: p, suspend: i.mapper.Suspend(p.Origin), resume: i.mapper.Resume(p.Origin), held: i.mapper.Held(p.Origin),
		start: start, prepared: prepared,
	})
}

// atRest refuses an origin at which another program is at work.
func atRest(device string, origin Mapping) error {
	if !origin.Suspended && !origin.Prepared {
		return nil
	}
	return fault.New(fault.Busy, "%s is suspended, or has a table that another program has prepared", device).
		WithHint("another LVM command is at work on it, or was killed: lvchange --refresh puts it back")
}

// loadNothing prepares a table that reads as zeros, so that udev, which looks at
// every device whose table changes, finds nothing in it and the kernel's log has no
// errors. A kernel without that target has one that answers with errors.
func (i *Instant) loadNothing(device string, length int64) error {
	err := i.mapper.Load(device, []Target{{Length: length, Type: "zero"}})
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	return i.mapper.Load(device, []Target{{Length: length, Type: "error"}})
}

// holdsNothing refuses a snapshot that another command made live meanwhile: the kernel would hand what it has recorded
// since to the prepared one (linux, drivers/md/dm-snap.c, "handover").
func (i *Instant) holdsNothing(device string) error {
	m, err := i.mapper.Mapping(device)
	if err == nil && kindIs(m, "snapshot") {
		return forestalled(device)
	}
	return err
}

// kindIs reports whether a device has one target of that type.
func kindIs(m Mapping, kind string) bool { return len(m.Table) == 1 && m.Table[0].Type == kind }

func (m Mapping) number() string {
	return fmt.Sprintf("%d:%d", m.Major, m.Minor)
}

// again makes a call, also when a signal interrupts it.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
