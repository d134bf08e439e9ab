package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
)

// Pair is a thick snapshot and its origin, by the names of their devices.
type Pair struct {
	Origin, Snapshot string

	// Log says that it holds the log or journal of another origin's file system.
	// It is suspended when that one is, whose suspend still writes to it, and
	// resumed before.
	Log bool
}

// Instant gives thick snapshots that LVM has made, each at a moment of its own,
// one common moment. It changes what device-mapper has of them and nothing of
// LVM's metadata.
//
// PrepareInstant takes each snapshot's table out of use, which lets go of what
// the snapshot has recorded so far, blanks the header of its COW space, and
// loads the table again without making it live. Take then suspends all
// origins, makes the snapshots' tables live, which from there on record what
// changes on the origins, and resumes the origins.
//
// No program runs and no file is opened while an origin is suspended, so it may
// be the volume that holds the programs, LVM's own files or the swap space. An
// origin has no prepared table of its own then: whatever happens, resuming it
// lets writes go on as before. What the snapshots hold after a Take that failed
// is of no common moment: the caller removes them.
type Instant struct {
	mapper  Mapper
	memory  func() (unlock func(), err error)
	release func() // of the groups' locks
	members []*member
}

// member is one origin with its snapshot, and the calls that are made while it is held.
type member struct {
	Pair
	suspend, resume, start func() error
	held                   func() (bool, error)
	state                  atomic.Int32
	thread                 atomic.Int32 // that suspends it
	ended                  time.Time    // when it was resumed
}

// The states of a member's origin.
const (
	running int32 = iota
	suspending
	held
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

// PrepareInstant makes thick snapshots ready for Take. Nothing is suspended, and
// writes to the origins go on. Until Close no LVM command changes anything in
// the groups: they wait. limit bounds the wait for a command that is under way.
//
// Faults: locked if another LVM command keeps a group's lock; unsupported if a
// device is not what LVM makes of a thick snapshot; command_failed. After one
// the snapshots hold nothing.
func (l *LVM) PrepareInstant(
	ctx context.Context, pairs []Pair, groups []string, limit time.Duration,
) (*Instant, error) {
	m, err := l.mapper()
	if err != nil {
		return nil, err
	}
	i := &Instant{mapper: m, memory: l.memory, release: func() {}}
	if len(groups) > 0 {
		if i.release, err = lockGroups(ctx, l.locks, groups, limit); err != nil {
			return nil, fault.All(err, i.Close())
		}
	}
	for _, p := range logsFirst(pairs) {
		if err := i.prepare(p); err != nil {
			return nil, fault.All(err, i.Close())
		}
	}
	return i, nil
}

// logsFirst is the order in which origins are resumed.
func logsFirst(pairs []Pair) []Pair {
	ordered := slices.Clone(pairs)
	slices.SortStableFunc(ordered, func(a, b Pair) int {
		switch {
		case a.Log == b.Log:
			return 0
		case a.Log:
			return -1
		}
		return 1
	})
	return ordered
}

// Close lets go of the groups' locks. It may be called again.
func (i *Instant) Close() error {
	i.release()
	return i.mapper.Close()
}

func (i *Instant) prepare(p Pair) error {
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
	if origin.Suspended || origin.Prepared {
		return fault.New(fault.Busy, "%s is suspended, or has a table that another program has prepared", p.Origin).
			WithHint("another LVM command is at work on it, or was killed: lvchange --refresh puts it back")
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
	i.members = append(i.members, &member{
		Pair: p, suspend: i.mapper.Suspend(p.Origin), resume: i.mapper.Resume(p.Origin),
		start: i.mapper.Resume(p.Snapshot), held: i.mapper.Held(p.Origin),
	})
	return nil
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

// graceLimit bounds the wait, past the limit, for suspends that were called off.
const graceLimit = 10 * time.Second

// Take makes the moment, and returns for how long each origin was suspended, by
// its device's name. limit bounds that: then everything is resumed and the fault
// is freeze_timeout. meanwhile, unless it is nil, is called while all origins
// are suspended; it must not need any of them.
//
// When Take returns no origin is suspended, unless the error is ErrSuspending.
// Faults: freeze_timeout, interrupted (ctx ended), busy (a file system is frozen
// by another program, or another program resumed an origin), unsupported (memory
// cannot be locked), command_failed.
func (i *Instant) Take(
	ctx context.Context, limit time.Duration, meanwhile func() error,
) (map[string]time.Duration, error) {
	unlock, err := i.memory()
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := &taking{Instant: i, results: make(chan error, len(i.members)), begin: make(chan struct{})}
	for _, m := range i.members {
		if !m.Log {
			t.files.Add(1)
		}
	}
	for _, m := range i.members {
		go t.suspend(m)
	}
	begun := time.Now()
	expiry := time.AfterFunc(limit, func() { t.abort(&t.expired) })
	defer expiry.Stop()
	defer context.AfterFunc(ctx, func() { t.abort(&t.ended) })()
	grace := time.NewTimer(limit + graceLimit)
	defer grace.Stop()
	close(t.begin)
	failed := t.awaitSuspends(grace.C)
	if failed == nil {
		failpoint.Hit("instant.held")
		failed = t.startAll(meanwhile)
	}
	if failed != nil {
		t.abort(nil)
	}
	t.resumeAll()
	err = t.verdict(ctx, failed, limit)
	if err != nil {
		return nil, err
	}
	waited := map[string]time.Duration{}
	for _, m := range i.members {
		waited[m.Origin] = m.ended.Sub(begun)
	}
	return waited, nil
}

// taking is one Take.
type taking struct {
	*Instant
	results        chan error
	begin          chan struct{}
	files          sync.WaitGroup // those that are no logs, until their suspends have come back
	called         atomic.Bool    // the suspends are called off
	expired, ended atomic.Bool    // by the limit, by the context
	resumed        atomic.Pointer[error]
}

// suspend suspends a member's origin on a thread of its own, so that all wait for
// their disks at the same time, and a signal reaches the one that is meant.
func (t *taking) suspend(m *member) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m.thread.Store(int32(unix.Gettid()))
	<-t.begin
	if m.Log {
		t.files.Wait()
	} else {
		defer t.files.Done()
	}
	m.state.Store(suspending)
	for {
		if t.called.Load() {
			m.state.Store(released)
			t.results <- unix.EINTR
			return
		}
		err := m.suspend()
		if err == unix.EINTR {
			continue
		}
		if err == nil && !m.state.CompareAndSwap(suspending, held) { // called off meanwhile
			t.resume(m)
		}
		t.results <- suspendFault(m.Origin, err)
		return
	}
}

func suspendFault(device string, err error) error {
	f := deviceFault("suspend", device, err)
	if err == unix.EBUSY { // kernels before 6.12 cannot suspend what is frozen
		return fault.New(fault.Busy, "%w: another program holds its file system frozen", f).
			WithHint(frozenHint)
	}
	return f
}

// awaitSuspends returns when every suspend has come back, or grace has ended.
func (t *taking) awaitSuspends(grace <-chan time.Time) error {
	var failed error
	for range t.members {
		select {
		case err := <-t.results:
			if err != nil && failed == nil {
				failed = err
				t.abort(nil)
			}
		case <-grace:
			return ErrSuspending
		}
	}
	return failed
}

// startAll makes the snapshots' tables live, if every origin stands still from
// before the first one to after the last one.
func (t *taking) startAll(meanwhile func() error) error {
	if meanwhile != nil && !t.called.Load() {
		if err := meanwhile(); err != nil {
			return err
		}
	}
	if err := t.allHeld(); err != nil {
		return err
	}
	for _, m := range t.members {
		if err := again(m.start); err != nil {
			return deviceFault("make a snapshot of", m.Origin, err)
		}
		failpoint.Hit("instant.started")
	}
	return t.allHeld()
}

func (t *taking) allHeld() error {
	for _, m := range t.members {
		suspended, err := m.held()
		if err != nil {
			return deviceFault("ask whether it is suspended:", m.Origin, err)
		}
		if !suspended && m.state.Load() == held {
			return fault.New(fault.Busy, "another program resumed %s while the set was taken", m.Origin).
				WithHint("another LVM command or dmsetup was at work on it: run the same again when that has ended")
		}
	}
	return nil
}

// abort calls off what is under way and resumes what is suspended. why is set, unless it is nil.
func (t *taking) abort(why *atomic.Bool) {
	if why != nil {
		why.Store(true)
	}
	t.called.Store(true)
	t.resumeAll()
	for _, m := range t.members {
		if m.state.CompareAndSwap(suspending, released) {
			_ = unix.Tgkill(os.Getpid(), int(m.thread.Load()), unix.SIGURG) // Go takes this signal for one of its own
		}
	}
}

// resumeAll resumes every origin that is suspended by this.
func (t *taking) resumeAll() {
	for _, m := range t.members {
		if m.state.CompareAndSwap(held, released) {
			t.resume(m)
			failpoint.Hit("instant.resumed")
		}
	}
}

func (t *taking) resume(m *member) {
	if err := again(m.resume); err != nil {
		err = deviceFault("resume", m.Origin, err)
		t.resumed.Store(&err)
	}
	m.ended = time.Now()
}

// verdict says what went wrong, the cause of the abort first.
func (t *taking) verdict(ctx context.Context, failed error, limit time.Duration) error {
	var left error
	if p := t.resumed.Load(); p != nil {
		left = *p
	}
	switch {
	case errors.Is(failed, ErrSuspending):
		return fault.All(fault.New(fault.FreezeTimeout, "%s could not be suspended within %s: %w", t.origins(), limit,
			ErrSuspending), left)
	case t.expired.Load():
		return fault.All(fault.New(fault.FreezeTimeout, "writes to %s waited for %s and the set was not taken; they go "+
			"on again", t.origins(), limit).
			WithHint("the disks are busy: try again at a quieter time, raise freeze_timeout, or take fewer volumes at "+
				"once"), left)
	case t.ended.Load():
		return fault.All(fault.New(fault.Of(ctx.Err()).Code, "asked to end while the set was taken; writes go on again").
			WithHint("run the same again"), left)
	}
	return fault.All(failed, left)
}

func (i *Instant) origins() string {
	var names []string
	for _, m := range i.members {
		names = append(names, m.Origin)
	}
	return strings.Join(names, ", ")
}

// lockMemory keeps all of this program in memory: a page of it that had to be
// read from a suspended volume, or from swap space on one, would never come. It
// also puts off the garbage collector.
func lockMemory() (unlock func(), err error) {
	percent := debug.SetGCPercent(-1)
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		debug.SetGCPercent(percent)
		return nil, fault.New(fault.Unsupported, "this program cannot be locked into memory (mlockall: %w), so no "+
			"volume is suspended", err).
			WithHint("is memory short? free -m; a limit on locked memory (LimitMEMLOCK) does not bind root")
	}
	return func() {
		_ = unix.Munlockall()
		debug.SetGCPercent(percent)
	}, nil
}

// lockDir is where LVM locks volume groups, unless global/locking_dir in
// lvm.conf says otherwise (file_locking.c).
const lockDir = "/run/lock/lvm"

// lockGroups takes LVM's own locks of volume groups: an LVM command that would
// change one waits. They end with this process. Where LVM locks elsewhere this
// holds nobody back; Take notices when somebody interfered.
func lockGroups(ctx context.Context, dir string, groups []string, limit time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var locks []*os.File
	release = func() {
		for _, f := range locks {
			_ = f.Close()
		}
		locks = nil
	}
	if _, err := os.Stat(dir); err != nil {
		return release, nil
	}
	for _, group := range groups {
		f, err := lockGroup(ctx, filepath.Join(dir, "V_"+group))
		if err != nil {
			release()
			return nil, fault.New(fault.Locked, "another LVM command has kept the lock of volume group %s for %s", group, limit).
				WithHint("ps -C lvm shows it; it is waited for, or ended, before a set can be taken")
		}
		locks = append(locks, f)
	}
	return release, nil
}

// lockGroup takes one lock. LVM removes the file when it lets go of it, so the
// lock counts only if the file still has its name.
func lockGroup(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, path) {
			return f, nil
		}
		_ = f.Close()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C: // flock(2) with a limit does not exist
		}
	}
}

func sameFile(f *os.File, path string) bool {
	opened, err1 := f.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}
