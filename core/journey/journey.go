// Package journey implements runs. A run is a change to the server that must be finished or undone, whatever happens
// to the process that asked for it.
//
// The module starts its own binary again in a transient systemd unit, waits for that unit, and reads the result from a
// file. The unit outlives the ssh connection and the module. When the unit's main process ends, however it ends,
// systemd runs the same binary with the argument "settle" (ExecStopPost=), which finishes or undoes what the journal
// shows as unfinished. After a power cut a unit that a rollback installs for as long as it takes does the same at boot.
// Every later run also settles the unfinished entries of its volume groups before it does anything else.
//
// The journal and the copy of the binary lie under State, because they must survive a power cut. Locks, requests,
// results and progress lie under Run, because they must not.
package journey

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
)

// StateDir and RuntimeDir are Rewind's two directories on a server. Only root can read or write them. StateDir survives
// a reboot, RuntimeDir does not.
const (
	StateDir   = "/var/lib/rewind"
	RuntimeDir = "/run/rewind"
)

// JournalDir is the directory of the journal.
const JournalDir = StateDir + "/journal"

// Handler implements one kind of run.
type Handler struct {
	// Do does the work of the run. The user is given the result even if err is not nil: it says what was done until
	// the failure.
	Do func(ctx context.Context, t *Run, request json.RawMessage) (ansible.Result, error)
	// Settle finishes or undoes a run of this kind that was interrupted. The volume groups of the entry are locked
	// when it is called. It must find out the actual state from LVM and the kernel, and it may be called more than
	// once for the same entry.
	Settle func(ctx context.Context, t *Run, e *journal.Entry) error
	// Release unblocks at once what users wait for because of such a run, such as suspended devices. It is called
	// after a run was killed, before the programs that the run left behind are waited for. It takes no lock, and it may
	// be nil.
	Release func(e *journal.Entry) error
}

// Handlers maps each kind of run to its Handler. Every binary that starts runs must know all kinds, because each run
// settles whatever it finds unfinished.
type Handlers map[string]Handler

// Run is one run, seen from inside its unit.
type Run struct {
	Journal  *journal.Journal
	handlers Handlers
	dir      string // holds the request, the result and the progress; empty when the boot unit settles
	id       string
	locks    *locks
	entry    *journal.Entry
	secret   []byte
	beside   ansible.Result // what AddToAnswers added
	notify   func(string)
}

// Secret decodes Call.Secret, which the caller gave as JSON, into v. If there is no secret, v stays unchanged. A
// secret that does not fit v is the fault internal.
func (t *Run) Secret(v any) error {
	if len(t.secret) == 0 {
		return nil
	}
	if json.Unmarshal(t.secret, v) != nil {
		return fault.New(fault.Internal, "the run's secret cannot be decoded") // the cause would quote the secret
	}
	return nil
}

// Begin writes a journal entry with its first step. It must be called before anything is changed.
func (t *Run) Begin(kind, set string, groups []string, step string, state any) error {
	e, err := t.Journal.Begin(t.newEntryID(), kind, set, groups, step, state)
	if err != nil {
		return err
	}
	t.entry = e
	return nil
}

// newEntryID returns an unused id for a journal entry of this run. A run may write more than one entry: a restore that
// is followed by a rollback writes a second one for the rollback.
func (t *Run) newEntryID() string {
	if t.id == "" {
		return journal.NewID()
	}
	for n := 1; ; n++ {
		id := entryID(t.id, n)
		if _, err := t.Journal.Load(id); errors.Is(err, fault.NotFound) {
			return id
		}
	}
}

// entryID returns the id of a run's nth journal entry, counted from 1. The first entry has the id of the run, the
// others have that id with "-2", "-3" and so on appended.
func entryID(runID string, n int) string {
	if n == 1 {
		return runID
	}
	return runID + "-" + strconv.Itoa(n)
}

// isEntryOf reports whether a run has written the journal entry.
func isEntryOf(e *journal.Entry, runID string) bool {
	return e.ID == runID || strings.HasPrefix(e.ID, runID+"-")
}

// Resume makes e the entry that Record and Finish write to.
func (t *Run) Resume(e *journal.Entry) { t.entry = e }

// Entry returns the entry that Record and Finish write to. It is nil before Begin.
func (t *Run) Entry() *journal.Entry { return t.entry }

// Record writes the step that is about to be taken, or was just taken, to the current entry.
func (t *Run) Record(step string, state any) error { return t.Journal.Record(t.entry, step, state) }

// Finish writes the last step and the outcome to the current entry.
func (t *Run) Finish(step string, o journal.Outcome, state any) error {
	return t.Journal.Finish(t.entry, step, o, state)
}

// Lock takes the locks of volume groups and names of sets (SetLock), and then settles the unfinished entries of earlier
// runs on these. It waits for other runs for LockWait, or as long as WaitFor or WaitAtMost said, and shows as progress
// which run it waits for. The text in what names this run for those that wait for it.
//
// stale is true if the groups may have changed after since: what was read of LVM before then must be read again.
//
// A lock that another run still holds at the limit is the fault locked. An entry that cannot be settled is the fault
// that its handler returned, or interrupted if this program does not know its kind.
func (t *Run) Lock(ctx context.Context, groups []string, what string, since time.Time) (stale bool, err error) {
	stale, err = t.locks.lock(ctx, groups, what, since)
	if err != nil {
		return stale, err
	}
	settled, err := t.settleGroups(ctx, groups)
	return stale || settled, err
}

// WaitAtMost makes Lock wait for other runs for d at most. A shorter limit that was set before stays.
func (t *Run) WaitAtMost(d time.Duration) { t.locks.wait = min(t.locks.wait, d) }

// WaitFor makes Lock wait for other runs for d instead of LockWait.
func (t *Run) WaitFor(d time.Duration) { t.locks.wait = d }

// Unlock gives all locks back, for the part of a run that makes no more changes.
func (t *Run) Unlock() { t.locks.unlock() }

// settleGroups settles the unfinished entries that name one of the groups, which are locked, or the set whose name is
// locked: of a set that was being removed LVM may have nothing left that tells its groups. It also locks the other
// groups of each such entry. settled is true if there was at least one.
func (t *Run) settleGroups(ctx context.Context, groups []string) (settled bool, err error) {
	entries, err := t.Journal.Unfinished()
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		concerned := overlap(e.Groups, groups) || slices.Contains(groups, SetLock(e.Set))
		if !concerned || t.entry != nil && e.ID == t.entry.ID {
			continue
		}
		if _, err := t.locks.lock(ctx, e.Groups, "settling "+e.Kind+" "+e.Set, time.Now()); err != nil {
			return settled, err
		}
		if err := t.settleEntry(ctx, e); err != nil {
			return settled, err
		}
		settled = true
	}
	return settled, nil
}

// settleEntry has the handler of e's kind settle it. The groups of e must be locked.
func (t *Run) settleEntry(ctx context.Context, e *journal.Entry) error {
	h, ok := t.handlers[e.Kind]
	if !ok {
		return fault.New(fault.Interrupted,
			"this program does not know how to settle the unfinished %s of set %q (journal %s)", e.Kind, e.Set, e.ID).
			WithHint("run the newest version of the module that began it")
	}
	ownEntry := t.entry
	t.entry = e
	defer func() { t.entry = ownEntry }()
	if err := h.Settle(ctx, t, e); err != nil {
		f := fault.New(fault.Of(err).Code, "an earlier %s of set %q, interrupted at %q, cannot be settled: %w",
			e.Kind, e.Set, e.Step, err)
		return f.WithHint("%s; every run on volume groups %s tries again. "+
			"If you have settled it by hand, remove its record: %s",
			cmp.Or(f.Hint, "mend the cause"), strings.Join(e.Groups, ", "), filepath.Join(JournalDir, e.ID+".json"))
	}
	return nil
}

// Progress says how far a run is.
type Progress struct {
	Label   string  `json:"label"`
	Percent float64 `json:"percent"`         // 0 to 100; negative if it is unknown
	Bytes   int64   `json:"bytes,omitempty"` // done so far; 0 if it is unknown
}

// Progress tells whoever waits for the run how far it is. percent is 0 to 100, or negative if it is unknown.
func (t *Run) Progress(label string, percent float64) {
	t.Tell(Progress{Label: label, Percent: percent})
}

// Tell is Progress with all fields. Progress is only informative, so that an error in writing it is not reported.
func (t *Run) Tell(p Progress) {
	if t.dir == "" {
		return
	}
	data, _ := json.Marshal(p)
	_ = replaceFile(filepath.Join(t.dir, "progress"), data)
}

// Unit returns the name of the run's systemd unit.
func (t *Run) Unit() string { return unitOf(t.id) }

// Dir returns the run's own directory. It is in memory, only root can open it, and it is kept for an hour after the
// end of the run.
func (t *Run) Dir() string { return t.dir }

// Extend lets the unit run until d from now, even if that is past its time limit. A part of a run that has no limit as
// long as it makes progress calls it again and again (systemd.service(5), EXTEND_TIMEOUT_USEC=).
func (t *Run) Extend(d time.Duration) {
	if t.notify != nil {
		t.notify("EXTEND_TIMEOUT_USEC=" + formatInt(d.Microseconds()))
	}
}

// AddToAnswers adds r to every answer from now on. A run that goes on with the work of another kind calls it with the
// result of its first part, as a restore does before the rollback that follows.
func (t *Run) AddToAnswers(r ansible.Result) { t.beside = r }

// withBeside returns r joined with t.beside. On conflict t.beside wins.
func (t *Run) withBeside(r ansible.Result) ansible.Result {
	if t.beside.Msg == "" {
		return r
	}
	data := map[string]any{}
	maps.Copy(data, r.Data)
	maps.Copy(data, t.beside.Data)
	r.Data, r.Changed = data, true
	r.Msg = t.beside.Msg + "; " + r.Msg
	r.Warnings = slices.Concat(t.beside.Warnings, r.Warnings)
	r.Commands = slices.Concat(t.beside.Commands, r.Commands)
	return r
}

// Answer gives the result, or the failure err, to whoever waits for the run. The run may go on after it.
func (t *Run) Answer(r ansible.Result, err error) error {
	if t.dir == "" {
		return nil
	}
	a := answer{Result: t.withBeside(r)}
	a.Fault = fault.Of(err)
	data, err := json.Marshal(a)
	if err != nil {
		return fault.New(fault.Internal, "result of the run: %w", err)
	}
	return replaceFile(filepath.Join(t.dir, "result"), data)
}

// answer is the content of the result file.
type answer struct {
	Result ansible.Result `json:"result"`
	Fault  *fault.Error   `json:"fault,omitempty"`
}

// replaceFile writes a file in Run so that a reader sees either the old or the new content, never a part. Nothing in
// Run needs to survive a power cut, so nothing is synced.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// overlap reports whether a and b have an element in common.
func overlap(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return true
			}
		}
	}
	return false
}
