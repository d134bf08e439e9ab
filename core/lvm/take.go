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

// graceLimit bounds the wait, past the limit, for suspends that were called off.
const graceLimit = 10 * time.Second

// Take makes the moment, and returns for how long each origin was suspended, by
// its device's name. limit bounds that: then everything is resumed and the fault
// is freeze_timeout.
//
// When Take returns no origin is suspended, unless the error is ErrSuspending.
// Faults: freeze_timeout, interrupted (ctx ended), busy (a file system is frozen
// by another program, or another program resumed an origin, or made a snapshot
// live before), unsupported (memory cannot be locked), command_failed.
func (i *Instant) Take(ctx context.Context, limit time.Duration) (map[string]time.Duration, error) {
	unlock, err := i.memory()
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := &taking{Instant: i, results: make(chan error, len(i.members)), begin: make(chan struct{})}
	spareThreads(2*len(i.members) + runtime.GOMAXPROCS(0))
	for _, m := range i.members {
		t.ready.Add(1)
		if !m.Log {
			t.files.Add(1)
		}
	}
	for _, m := range i.members {
		go t.suspend(m)
	}
	t.ready.Wait()
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
		failed = t.startAll()
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
	ready          sync.WaitGroup // until each has its thread
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
	t.ready.Done()
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
			t.results <- errCalledOff
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
			t.late = true
			return ErrSuspending
		}
	}
	return failed
}

// startAll takes the snapshots, if every origin stands still from before the
// first one to after the last one.
func (t *taking) startAll() error {
	if err := t.allHeld(); err != nil {
		return err
	}
	if err := t.allPrepared(); err != nil {
		return err
	}
	for _, m := range t.members {
		if err := t.start(m); err != nil {
			return err
		}
		failpoint.Hit("instant.started")
	}
	return t.allHeld()
}

// start takes one snapshot. The origin of a thin one stays held until that is over, also where the limit or the context
// ends meanwhile: a pool that makes a snapshot of a volume that is written to can lose what is written (linux,
// drivers/md/dm-thin.c, thin_bio_map). A thick one would only be of no use.
func (t *taking) start(m *member) error {
	if m.Thin != nil && !m.state.CompareAndSwap(held, starting) {
		return errCalledOff
	}
	err := deviceFault("make a snapshot of", m.Origin, again(m.start))
	if m.state.CompareAndSwap(starting, held) && t.called.Load() {
		t.resumeAll()
		return errCalledOff
	}
	return err
}

// errCalledOff says that the limit or the context ended the attempt; verdict says which.
var errCalledOff = errors.New("called off")

// allPrepared refuses a thick snapshot whose table is live already: to start it would change nothing, and it has
// recorded since an earlier moment. One that becomes live from here on does so while all origins are held.
func (t *taking) allPrepared() error {
	for _, m := range t.members {
		if m.prepared == nil {
			continue
		}
		prepared, err := m.prepared()
		if err != nil {
			return deviceFault("ask whether its table is prepared:", m.Snapshot, err)
		}
		if !prepared {
			return forestalled(m.Snapshot)
		}
	}
	return nil
}

func forestalled(snapshot string) error {
	return fault.New(fault.Busy, "another LVM command, or dmsetup, worked on %s meanwhile, and it is of an earlier "+
		"moment than the set", snapshot).
		WithHint(takeAgain)
}

const takeAgain = "take the set again when that command has ended"

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
