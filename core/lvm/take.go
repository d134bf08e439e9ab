package lvm

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
)

// graceLimit bounds how much longer than the limit Take waits for suspends that were called off.
const graceLimit = 10 * time.Second

// Take takes all snapshots at one moment, and returns for how long writes to each origin waited, by the name of the
// origin's device. limit bounds that time: when it is over, all origins are resumed and the fault is freeze_timeout.
//
// When Take returns, no origin is suspended any more, unless the error is ErrSuspending. Faults: freeze_timeout,
// interrupted or timeout (ctx ended), busy (another program holds a file system frozen, resumed an origin, or made a
// snapshot live too early), unsupported (this program cannot be locked into memory), command_failed.
func (i *Instant) Take(ctx context.Context, limit time.Duration) (map[string]time.Duration, error) {
	unlock, err := i.lockMemory()
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := &taking{Instant: i, suspendResults: make(chan error, len(i.members)), begin: make(chan struct{})}
	makeSpareThreads(2*len(i.members) + runtime.GOMAXPROCS(0))
	for _, m := range i.members {
		t.threadsReady.Add(1)
		if !m.Log {
			t.nonLogs.Add(1)
		}
	}
	for _, m := range i.members {
		go t.suspend(m)
	}
	t.threadsReady.Wait()
	begun := time.Now()
	limitTimer := time.AfterFunc(limit, func() { t.abort(&t.limitReached) })
	defer limitTimer.Stop()
	defer context.AfterFunc(ctx, func() { t.abort(&t.ctxEnded) })()
	graceTimer := time.NewTimer(limit + graceLimit)
	defer graceTimer.Stop()
	close(t.begin)
	takeErr := t.awaitSuspends(graceTimer.C)
	if takeErr == nil {
		failpoint.Hit("instant.held")
		takeErr = t.makeSnapshots()
	}
	if takeErr != nil {
		t.abort(nil)
	}
	t.resumeAll()
	err = t.outcome(ctx, takeErr, limit)
	if err != nil {
		return nil, err
	}
	waited := map[string]time.Duration{}
	for _, m := range i.members {
		waited[m.origin] = m.resumedAt.Sub(begun)
	}
	return waited, nil
}

// taking is what one call of Take works with.
type taking struct {
	*Instant
	suspendResults         chan error     // one error, or nil, for each member
	begin                  chan struct{}  // closed when the suspends shall begin
	threadsReady           sync.WaitGroup // done when each member has its thread
	nonLogs                sync.WaitGroup // done when the suspends of all members without Log have ended
	calledOff              atomic.Bool    // no further suspend or snapshot shall begin
	limitReached, ctxEnded atomic.Bool    // why Take was called off; both false: because of an error
	resumeErr              atomic.Pointer[error]
}

// suspend suspends a member's origin. Each member has a thread of its own, so that all of them wait for their disks at
// the same time, and abort can interrupt a single one with a signal.
func (t *taking) suspend(m *member) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m.threadID.Store(int32(unix.Gettid()))
	t.threadsReady.Done()
	<-t.begin
	if m.Log {
		t.nonLogs.Wait()
	} else {
		defer t.nonLogs.Done()
	}
	m.state.Store(originSuspending)
	for {
		if t.calledOff.Load() {
			m.state.Store(originReleased)
			t.suspendResults <- errCalledOff
			return
		}
		err := m.suspend()
		if err == unix.EINTR {
			continue
		}
		if err == nil && !m.state.CompareAndSwap(originSuspending, originSuspended) { // called off meanwhile
			t.resume(m)
		}
		t.suspendResults <- suspendFault(m.origin, err)
		return
	}
}

// suspendFault returns the fault of a suspend that failed with err; nil for nil.
func suspendFault(device string, err error) error {
	f := deviceFault("suspend", device, err)
	if err == unix.EBUSY { // kernels before 6.12 cannot suspend a device with a frozen file system
		return fault.New(fault.Busy, "%w: another program holds its file system frozen", f).
			WithHint(frozenHint)
	}
	return f
}

// awaitSuspends waits until every suspend has ended. At the first error it calls off the others. It returns
// ErrSuspending if some have not ended when grace fires.
func (t *taking) awaitSuspends(grace <-chan time.Time) error {
	var firstErr error
	for range t.members {
		select {
		case err := <-t.suspendResults:
			if err != nil && firstErr == nil {
				firstErr = err
				t.abort(nil)
			}
		case <-grace:
			t.suspendPending = true
			return ErrSuspending
		}
	}
	return firstErr
}

// makeSnapshots takes all snapshots. It fails unless every origin is suspended from before the first one until after
// the last one.
func (t *taking) makeSnapshots() error {
	if err := t.requireSuspended(); err != nil {
		return err
	}
	if err := t.requirePrepared(); err != nil {
		return err
	}
	for _, m := range t.members {
		if err := t.makeSnapshot(m); err != nil {
			return err
		}
		failpoint.Hit("instant.started")
	}
	return t.requireSuspended()
}

// makeSnapshot takes one snapshot. The origin of a thin snapshot stays suspended until the snapshot is made, even if
// the limit is reached or ctx ends meanwhile: a pool that makes a snapshot of a volume while it is written to can lose
// what is written (linux, drivers/md/dm-thin.c, thin_bio_map). The origin of a thick snapshot may be resumed meanwhile,
// which only makes the snapshot useless.
func (t *taking) makeSnapshot(m *member) error {
	if m.Pool != "" && !m.state.CompareAndSwap(originSuspended, originSnapshotting) {
		return errCalledOff
	}
	err := deviceFault("make a snapshot of", m.origin, retryInterrupted(m.makeSnapshot))
	if m.state.CompareAndSwap(originSnapshotting, originSuspended) && t.calledOff.Load() {
		t.resumeAll()
		return errCalledOff
	}
	return err
}

// errCalledOff says that abort ended the attempt; outcome says why.
var errCalledOff = errors.New("called off")

// requirePrepared returns busy if the table of a thick snapshot is live already: a resume would change nothing, and the
// snapshot has recorded changes since an earlier moment. A table that becomes live after this check does so while all
// origins are suspended.
func (t *taking) requirePrepared() error {
	for _, m := range t.members {
		if m.isPrepared == nil {
			continue
		}
		prepared, err := m.isPrepared()
		if err != nil {
			return deviceFault("ask whether its table is prepared:", m.snapshot, err)
		}
		if !prepared {
			return liveTooEarly(m.snapshot)
		}
	}
	return nil
}

// liveTooEarly returns the fault of a thick snapshot whose table was made live before its origin was suspended.
func liveTooEarly(snapshot string) error {
	return fault.New(fault.Busy, "another LVM command, or dmsetup, used %s while the set was taken, so this "+
		"snapshot is of an earlier moment than the set", snapshot).
		WithHint(takeAgainHint)
}

// takeAgainHint is the hint where another LVM command has interfered with a set.
const takeAgainHint = "take the set again when that command has ended"

// requireSuspended returns busy if another program has resumed an origin. An origin that this program has resumed, at
// the limit or because ctx ended, is no error here.
func (t *taking) requireSuspended() error {
	for _, m := range t.members {
		suspended, err := m.isSuspended()
		if err != nil {
			return deviceFault("ask whether it is suspended:", m.origin, err)
		}
		if !suspended && m.state.Load() == originSuspended {
			return fault.New(fault.Busy, "another program resumed %s while the set was taken", m.origin).
				WithHint("another LVM command or dmsetup was at work on it: run the same again when that has ended")
		}
	}
	return nil
}

// abort calls off the suspends that are under way and resumes the origins that are suspended. It sets reason, unless
// that is nil, so that outcome can report it.
func (t *taking) abort(reason *atomic.Bool) {
	if reason != nil {
		reason.Store(true)
	}
	t.calledOff.Store(true)
	t.resumeAll()
	for _, m := range t.members {
		if m.state.CompareAndSwap(originSuspending, originReleased) {
			// The signal interrupts the suspend. The Go runtime itself sends SIGURG to its threads, so one more does no harm.
			_ = unix.Tgkill(os.Getpid(), int(m.threadID.Load()), unix.SIGURG)
		}
	}
}

// resumeAll resumes every origin that Take has suspended, except those whose thin snapshot is just being made.
func (t *taking) resumeAll() {
	for _, m := range t.members {
		if m.state.CompareAndSwap(originSuspended, originReleased) {
			t.resume(m)
			failpoint.Hit("instant.resumed")
		}
	}
}

// resume resumes a member's origin, and keeps the error for outcome.
func (t *taking) resume(m *member) {
	if err := retryInterrupted(m.resume); err != nil {
		err = deviceFault("resume", m.origin, err)
		t.resumeErr.Store(&err)
	}
	m.resumedAt = time.Now()
}

// outcome returns the fault of Take, or nil. The cause of an abort comes before what followed from it.
func (t *taking) outcome(ctx context.Context, takeErr error, limit time.Duration) error {
	var resumeErr error
	if stored := t.resumeErr.Load(); stored != nil {
		resumeErr = *stored
	}
	switch {
	case errors.Is(takeErr, ErrSuspending):
		return fault.All(fault.New(fault.FreezeTimeout, "%s could not be suspended within %s: %w", t.origins(), limit,
			ErrSuspending), resumeErr)
	case t.limitReached.Load():
		return fault.All(fault.New(fault.FreezeTimeout, "writes to %s waited for %s and the set was not taken; they go "+
			"on again", t.origins(), limit).
			WithHint("the disks are busy: try again at a quieter time, raise freeze_timeout, or take fewer volumes at "+
				"once"), resumeErr)
	case t.ctxEnded.Load():
		return fault.All(fault.New(fault.Of(ctx.Err()).Code, "asked to end while the set was taken; writes go on again").
			WithHint("run the same again"), resumeErr)
	}
	return fault.All(takeErr, resumeErr)
}

// origins returns the names of the origins' devices, for a message.
func (i *Instant) origins() string {
	var names []string
	for _, m := range i.members {
		names = append(names, m.origin)
	}
	return strings.Join(names, ", ")
}
