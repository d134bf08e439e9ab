// Package journey runs what can leave a server in the middle.
//
// A journey is a change to the server that must be finished or undone whatever happens to the process that asked for
// it: the module starts its own binary again in a transient systemd unit, waits for that unit, and reads its result
// from a file. The unit outlives the ssh connection and the module. When its main process ends, however it ends,
// systemd runs the same binary's settle (ExecStopPost=), which undoes or finishes what the journal says was begun.
// After a power cut a unit installed for the time of a rollback does the same at boot; and every later journey settles
// what it finds unfinished on its volume groups before it does anything else.
//
// Where things live: the journal and the binary under State (it must survive a power cut), locks, requests, results
// and progress under Run (they must not).
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

// State and Run are the two directories of Rewind on a server; both belong to root alone.
const (
	State = "/var/lib/rewind"
	Run   = "/run/rewind"
)

// JournalDir is where the journal lies.
const JournalDir = State + "/journal"

// Handler is what a kind of journey does.
type Handler struct {
	// Do makes the journey. Result is given to the user also when err is not nil: it says what was done until then.
	Do func(ctx context.Context, t *Trip, request json.RawMessage) (ansible.Result, error)
	// Settle finishes or undoes a journey of this kind that ended in the middle. It is called with the volume groups
	// of the entry locked, must find out from LVM and the kernel what is really there, and may be called again.
	Settle func(ctx context.Context, t *Trip, e *journal.Entry) error
	// Release lets go on at once what users wait for while such a journey is under way. It is called before programs that
	// a killed journey left behind are waited for, takes no lock, and may be nil.
	Release func(e *journal.Entry) error
}

// Handlers are all kinds of journeys, by kind. Every binary that starts any of them knows all of them, because a
// journey settles whatever it finds unfinished.
type Handlers map[string]Handler

// Trip is a journey under way, seen from inside its unit.
type Trip struct {
	Journal  *journal.Journal
	handlers Handlers
	dir      string // of request, result and progress; empty when settling at boot
	id       string
	locks    *locks
	entry    *journal.Entry
	secret   []byte
	beside   ansible.Result
	notify   func(string)
}

// Secret decodes what the caller gave as Call.Secret into v; without one it leaves v alone.
func (t *Trip) Secret(v any) error {
	if len(t.secret) == 0 {
		return nil
	}
	if json.Unmarshal(t.secret, v) != nil {
		return fault.New(fault.Internal, "what the run must keep secret cannot be read") // an error would quote it
	}
	return nil
}

// Begin writes down that a journey of this kind begins, in a first step, before anything is changed.
func (t *Trip) Begin(kind, set string, groups []string, step string, state any) error {
	e, err := t.Journal.Begin(t.entryID(), kind, set, groups, step, state)
	if err != nil {
		return err
	}
	t.entry = e
	return nil
}

// entryID is free for an entry of this journey: its first has the journey's own id, a later one, such as that of the
// rollback after a restore, a number behind it.
func (t *Trip) entryID() string {
	if t.id == "" {
		return journal.NewID()
	}
	for n := 1; ; n++ {
		id := nth(t.id, n)
		if _, err := t.Journal.Load(id); errors.Is(err, fault.NotFound) {
			return id
		}
	}
}

// nth is the id of a journey's nth entry, from 1.
func nth(id string, n int) string {
	if n == 1 {
		return id
	}
	return id + "-" + strconv.Itoa(n)
}

// Resume makes e the entry that Record and Finish write to.
func (t *Trip) Resume(e *journal.Entry) { t.entry = e }

// Entry is the entry that Record and Finish write to; nil before Begin.
func (t *Trip) Entry() *journal.Entry { return t.entry }

// Record writes down the step that is about to be taken, or was taken.
func (t *Trip) Record(step string, state any) error { return t.Journal.Record(t.entry, step, state) }

// Finish closes the entry.
func (t *Trip) Finish(step string, o journal.Outcome, state any) error {
	return t.Journal.Finish(t.entry, step, o, state)
}

// Lock takes the locks of the volume groups, waiting for other journeys at most LockWait and saying for whom, and settles what an earlier
// journey left unfinished in them. stale says that the groups may have changed since the time given: what was read
// of LVM before must be read again.
func (t *Trip) Lock(ctx context.Context, groups []string, what string, since time.Time) (stale bool, err error) {
	stale, err = t.locks.take(ctx, groups, what, since)
	if err != nil {
		return stale, err
	}
	settled, err := t.settle(ctx, groups)
	return stale || settled, err
}

// WaitAtMost shortens the wait for other journeys to d, where that is less than LockWait.
func (t *Trip) WaitAtMost(d time.Duration) { t.locks.wait = min(t.locks.wait, d) }

// WaitFor has Lock wait so long for other journeys instead of LockWait.
func (t *Trip) WaitFor(d time.Duration) { t.locks.wait = d }

// Unlock lets others at the volume groups, for the part of a journey that changes nothing more.
func (t *Trip) Unlock() { t.locks.release() }

// settle settles unfinished entries that touch the locked groups.
func (t *Trip) settle(ctx context.Context, groups []string) (settled bool, err error) {
	entries, err := t.Journal.Unfinished()
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !overlap(e.Groups, groups) || t.entry != nil && e.ID == t.entry.ID {
			continue
		}
		if _, err := t.locks.take(ctx, e.Groups, "settling "+e.Kind+" "+e.Set, time.Now()); err != nil {
			return settled, err
		}
		if err := t.settleEntry(ctx, e); err != nil {
			return settled, err
		}
		settled = true
	}
	return settled, nil
}

func (t *Trip) settleEntry(ctx context.Context, e *journal.Entry) error {
	h, ok := t.handlers[e.Kind]
	if !ok {
		return fault.New(fault.Interrupted, "an unfinished %s of set %q (journal %s) is not known to this program", e.Kind, e.Set, e.ID).
			WithHint("run the newest version of the module that began it")
	}
	mine := t.entry
	t.entry = e
	defer func() { t.entry = mine }()
	if err := h.Settle(ctx, t, e); err != nil {
		f := fault.New(fault.Of(err).Code, "an earlier %s of set %q, interrupted at %q, cannot be settled: %w", e.Kind, e.Set, e.Step, err)
		return f.WithHint("%s; it is tried again by every run on volume groups %s. If you have settled it by hand, take its record away: %s",
			cmp.Or(f.Hint, "mend the cause"), strings.Join(e.Groups, ", "), filepath.Join(JournalDir, e.ID+".json"))
	}
	return nil
}

// Progress is what a journey says of itself while it runs.
type Progress struct {
	Label   string  `json:"label"`
	Percent float64 `json:"percent"` // 0 to 100; negative where there is no measure
	Bytes   int64   `json:"bytes,omitempty"`
}

// Progress tells whoever waits how far the journey is.
func (t *Trip) Progress(label string, percent float64) {
	t.Tell(Progress{Label: label, Percent: percent})
}

// Tell is Progress with all there is to say. It is advice: an error to write it is not reported.
func (t *Trip) Tell(p Progress) {
	if t.dir == "" {
		return
	}
	data, _ := json.Marshal(p)
	_ = replace(filepath.Join(t.dir, "progress"), data)
}

// Unit is the name of the journey's unit of systemd.
func (t *Trip) Unit() string { return unitOf(t.id) }

// Dir is a directory of this journey's own, in memory, for root alone; it outlives the journey by an hour.
func (t *Trip) Dir() string { return t.dir }

// Extend puts off the end of the unit's running time to d from now, for the part of a journey that may take as long as
// it takes while it moves (systemd.service(5), EXTEND_TIMEOUT_USEC=).
func (t *Trip) Extend(d time.Duration) {
	if t.notify != nil {
		t.notify("EXTEND_TIMEOUT_USEC=" + formatInt(d.Microseconds()))
	}
}

// Beside adds what was done so far to every answer from now on, for a journey that goes on with another kind's.
func (t *Trip) Beside(r ansible.Result) { t.beside = r }

// with returns r together with what stands beside it. What both say, that says: it knows more.
func (t *Trip) with(r ansible.Result) ansible.Result {
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

// Answer gives the result to whoever waits, before the end of the journey.
func (t *Trip) Answer(r ansible.Result, err error) error {
	if t.dir == "" {
		return nil
	}
	a := answer{Result: t.with(r)}
	a.Fault = fault.Of(err)
	data, err := json.Marshal(a)
	if err != nil {
		return fault.New(fault.Internal, "result of the run: %w", err)
	}
	return replace(filepath.Join(t.dir, "result"), data)
}

// answer is what the result file holds.
type answer struct {
	Result ansible.Result `json:"result"`
	Fault  *fault.Error   `json:"fault,omitempty"`
}

// replace writes a file in Run so that a reader sees the old or the new one, never a part. Nothing there needs to
// survive a power cut, so nothing is synced.
func replace(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

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
