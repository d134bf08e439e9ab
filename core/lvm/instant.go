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

// SnapshotPair is a snapshot and its origin, which are volumes of the volume group VG.
type SnapshotPair struct {
	VG, Origin, Snapshot string

	// Pool is the pool of a thin snapshot. "" means that the snapshot is thick.
	Pool string

	// Tag is a tag that the snapshot has and no other volume has.
	Tag string

	// Log says that the origin holds the log or journal of the file system of another pair's origin. An origin with Log is
	// suspended after all origins without it, because the file system writes to its log while its origin is being
	// suspended. It is resumed before them.
	Log bool
}

// OriginDevice returns the name of the origin's device.
func (p SnapshotPair) OriginDevice() string { return DMName(p.VG, p.Origin) }

// SnapshotDevice returns the name of the snapshot's device.
func (p SnapshotPair) SnapshotDevice() string { return DMName(p.VG, p.Snapshot) }

// snapshotName returns the name of the snapshot, vg/lv.
func (p SnapshotPair) snapshotName() string { return p.VG + "/" + p.Snapshot }

// Instant gives one common moment to snapshots that LVM has made one after the other. It changes their device-mapper
// devices, but not LVM's metadata.
//
// PrepareInstant replaces the table of each thick snapshot, so that the kernel drops what the snapshot has recorded so
// far, blanks the header of its COW space, and loads the old table again without making it live. It deletes each thin
// snapshot from its pool. Take then suspends all origins, makes the tables of the thick snapshots live, which record
// the changes to the origins from then on, has the pools make the thin snapshots anew under the same ids, and resumes
// the origins.
//
// While an origin is suspended no program is started and no file is opened. So the origin may be the volume that holds
// the programs, LVM's own files or the swap space. The origin has no prepared table meanwhile: whatever happens, writes
// go on as before when it is resumed. After a Take that failed the snapshots show no common moment, and the caller must
// remove them.
type Instant struct {
	mapper         Mapper
	lockMemory     func() (unlock func(), err error)
	locks          Locks // of the volume groups
	members        []*member
	suspendPending bool // a suspend is still under way; its goroutine resumes the origin as soon as it ends
}

// member is one origin with its snapshot, and the calls that Take makes for them.
type member struct {
	SnapshotPair
	origin, snapshot string // their devices' names, made beforehand: Take allocates no memory

	suspend, resume func() error         // of the origin
	makeSnapshot    func() error         // makes the thick snapshot's table live, or has the pool make the thin one
	isSuspended     func() (bool, error) // asks whether the origin is suspended
	isPrepared      func() (bool, error) // asks whether the snapshot has a prepared table; nil for a thin one
	state           atomic.Int32         // of the origin: originRunning and so on
	threadID        atomic.Int32         // of the thread that suspends the origin
	resumedAt       time.Time            // when the origin was resumed
}

// The states of a member's origin.
const (
	originRunning int32 = iota
	originSuspending
	originSuspended
	originSnapshotting // suspended, and stays so until its thin snapshot is made, even if the limit is reached
	originReleased     // resumed, or its suspend was called off
)

// headerBytes is how many bytes at the beginning of a COW space are blanked. The first chunk begins with the header,
// which makes the kernel read everything after it as what it has recorded (linux, drivers/md/dm-snap-persistent.c).
const headerBytes = 4096

// ErrSuspending says that a suspend did not end in time and could not be called off. This process resumes the volume as
// soon as the suspend ends. If this process ends before that, Unsuspend can resume the volume.
var ErrSuspending = errors.New("its suspend is still under way, and is undone when it comes back")

// PrepareInstant makes snapshots ready for Take. It suspends no origin, so writes to the origins go on. LVM commands
// that would change something in the groups wait until Close. limit bounds PrepareInstant's own wait for a command that
// is under way. Without groups no locks are taken.
//
// Faults: locked (another LVM command keeps a group's lock), busy (another LVM command is at work on an origin or a
// pool, or has changed or activated one of the snapshots), unsupported (a device is not mapped as LVM maps a snapshot,
// its origin or its pool), not_found, not_root, command_failed. After a fault the snapshots are of no use.
func (l *LVM) PrepareInstant(
	ctx context.Context, pairs []SnapshotPair, groups []string, limit time.Duration,
) (*Instant, error) {
	m, err := l.openMapper()
	if err != nil {
		return nil, err
	}
	i := &Instant{mapper: m, lockMemory: l.lockMemory, locks: Locks{Release: func() {}}}
	if len(groups) > 0 {
		locks, err := l.lockGroups(ctx, groups, limit)
		if err != nil {
			return nil, fault.All(err, i.Close())
		}
		i.locks = locks
	}
	ids, err := l.snapshotsOfTags(ctx, pairs)
	if err != nil {
		return nil, fault.All(err, i.Close())
	}
	for _, p := range logsFirst(pairs) {
		prepare := i.prepareThick
		if p.Pool != "" {
			prepare = func(p SnapshotPair) error { return i.prepareThin(p, ids) }
		}
		if err := prepare(p); err != nil {
			return nil, fault.All(err, i.Close())
		}
	}
	return i, nil
}

// logsFirst returns the pairs in the order in which their origins are resumed: those with Log first.
func logsFirst(pairs []SnapshotPair) []SnapshotPair {
	var logs, others []SnapshotPair
	for _, p := range pairs {
		if p.Log {
			logs = append(logs, p)
		} else {
			others = append(others, p)
		}
	}
	return append(logs, others...)
}

// Close releases the locks of the groups. Another call has no effect.
func (i *Instant) Close() error {
	i.locks.Release()
	if i.suspendPending { // the resume that follows needs the mapper
		return nil
	}
	return i.mapper.Close()
}

// prepareThick empties a thick snapshot and loads its table without making it live, for Take.
func (i *Instant) prepareThick(p SnapshotPair) error {
	device := p.SnapshotDevice()
	snapshot, err := i.mapper.Mapping(device)
	if err != nil {
		return err
	}
	origin, err := i.mapper.Mapping(p.OriginDevice())
	if err != nil {
		return err
	}
	if !isSnapshotOf(snapshot, origin) {
		return fault.New(fault.Unsupported, "%s and %s are not mapped as LVM maps a snapshot and its origin",
			device, p.OriginDevice()).
			With("tables", map[string]any{device: snapshot.Table, p.OriginDevice(): origin.Table})
	}
	if err := requireAtRest(p.OriginDevice(), origin); err != nil {
		return err
	}
	// The snapshot's table has the number of the COW space's device, and LVM gives that device this name (dev_manager.c,
	// "cow"). Both must be the same device.
	cow := device + "-cow"
	cowMapping, err := i.mapper.Mapping(cow)
	if err != nil {
		return err
	}
	if cowNumber := snapshot.Table[0].Args[1]; cowNumber != cowMapping.deviceNumber() {
		return fault.New(fault.Unsupported, "%s has its COW space on %s, and %s is %s", device, cowNumber, cow,
			cowMapping.deviceNumber())
	}
	for _, step := range []func() error{
		func() error { return i.loadPlaceholder(device, snapshot.Table[0].Length) },
		func() error {
			return deviceFault("swap the table of", device, retryInterrupted(i.mapper.Resume(device)))
		},
		func() error { return i.mapper.Blank(cow, headerBytes) },
		func() error { return i.mapper.Load(device, snapshot.Table) },
	} {
		if err := step(); err != nil {
			return err
		}
		failpoint.Hit("instant.prepare")
	}
	if err := i.requireNotLive(device); err != nil {
		return err
	}
	i.addMember(p, i.mapper.Resume(device), i.mapper.Prepared(device))
	return nil
}

// addMember makes p a member of the instant. makeSnapshot takes its snapshot while the origin is suspended. isPrepared
// is nil for a thin snapshot.
func (i *Instant) addMember(p SnapshotPair, makeSnapshot func() error, isPrepared func() (bool, error)) {
	origin := p.OriginDevice()
	i.members = append(i.members, &member{
		SnapshotPair: p, origin: origin, snapshot: p.SnapshotDevice(),
		suspend: i.mapper.Suspend(origin), resume: i.mapper.Resume(origin), isSuspended: i.mapper.Held(origin),
		makeSnapshot: makeSnapshot, isPrepared: isPrepared,
	})
}

// requireAtRest returns busy if another program is at work on a device: if it is suspended or has a prepared table.
func requireAtRest(device string, mapping Mapping) error {
	if !mapping.Suspended && !mapping.Prepared {
		return nil
	}
	return fault.New(fault.Busy, "%s is suspended, or has a table that another program has prepared", device).
		WithHint("another LVM command is at work on it, or was killed: lvchange --refresh puts it back")
}

// loadPlaceholder prepares a table that reads as zeros. udev reads every device whose table changes: with zeros it
// finds nothing, and the kernel logs no I/O errors. On a kernel without the zero target it prepares the error target.
func (i *Instant) loadPlaceholder(device string, length int64) error {
	err := i.mapper.Load(device, []Target{{Length: length, Type: "zero"}})
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	return i.mapper.Load(device, []Target{{Length: length, Type: "error"}})
}

// requireNotLive returns busy if another command has made the snapshot live since its table was replaced: the kernel
// would hand over to the prepared table what the snapshot has recorded since (linux, drivers/md/dm-snap.c, "handover").
func (i *Instant) requireNotLive(device string) error {
	m, err := i.mapper.Mapping(device)
	if err == nil && hasSingleTarget(m, "snapshot") {
		return liveTooEarly(device)
	}
	return err
}

// hasSingleTarget reports whether a device's live table has exactly one target, of the given type.
func hasSingleTarget(m Mapping, targetType string) bool {
	return len(m.Table) == 1 && m.Table[0].Type == targetType
}

// isSnapshotOf reports whether two devices are mapped as LVM maps a thick snapshot and its origin: both tables begin
// with the number of the device that has the origin's data.
func isSnapshotOf(snapshot, origin Mapping) bool {
	return hasSingleTarget(snapshot, "snapshot") && hasSingleTarget(origin, "snapshot-origin") &&
		len(snapshot.Table[0].Args) >= 2 && len(origin.Table[0].Args) >= 1 &&
		snapshot.Table[0].Args[0] == origin.Table[0].Args[0]
}

// deviceNumber returns "major:minor", as tables name a device.
func (m Mapping) deviceNumber() string {
	return fmt.Sprintf("%d:%d", m.Major, m.Minor)
}

// retryInterrupted makes a call, and repeats it as long as a signal interrupts it (EINTR).
func retryInterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
