package journey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Internal returns the hidden commands of a module that starts runs. The unit of a run calls both: "journey ID" as its
// main process and "settle ID" as its ExecStopPost=. Package rollback calls "settle" without an id at boot.
func (h Handlers) Internal() map[string]func(context.Context, []string) int {
	return map[string]func(context.Context, []string) int{
		"journey": h.journeyCommand,
		"settle":  h.settleCommand,
	}
}

// journeyCommand is the main process of the unit. It does the work of the run and writes the answer.
func (h Handlers) journeyCommand(ctx context.Context, args []string) int {
	if len(args) != 1 {
		return 2
	}
	// systemd sends SIGTERM at shutdown and at the time limit. That cancels the context, and the current step stops at
	// the next place where it can be interrupted.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	t, err := h.newTrip(args[0])
	if err != nil {
		return LogError(err)
	}
	defer t.Unlock()
	r, err := h.handleRequest(ctx, t)
	if t.Answer(r, err) != nil {
		return 1
	}
	return 0 // a failure is in the result; systemd would keep a failed unit until somebody resets it
}

// handleRequest reads the request and the secret and calls the Handler of the request's kind.
func (h Handlers) handleRequest(ctx context.Context, t *Run) (r ansible.Result, err error) {
	data, err := os.ReadFile(filepath.Join(t.dir, "request"))
	if err != nil {
		return r, fault.New(fault.Internal, "request: %w", err)
	}
	var req request
	if err := json.Unmarshal(data, &req); err != nil {
		return r, fault.New(fault.Internal, "request: %w", err)
	}
	if err := t.takeSecret(); err != nil {
		return r, fault.New(fault.Internal, "secret: %w", err)
	}
	handler, ok := h[req.Kind]
	if !ok {
		return r, fault.New(fault.Internal, "this program knows no run of kind %q", req.Kind)
	}
	return handler.Do(ctx, t, req.Request)
}

// takeSecret reads the secret and removes its file.
func (t *Run) takeSecret() (err error) {
	path := filepath.Join(t.dir, secretFile)
	t.secret, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.Remove(path))
}

// settleCommand is the unit's ExecStopPost=, and package rollback calls it at boot. It settles every unfinished entry.
// args holds the id of the run that has ended; it is empty at boot.
func (h Handlers) settleCommand(ctx context.Context, args []string) int {
	if len(args) == 1 {
		_ = os.Remove(filepath.Join(runDir(args[0]), secretFile)) // the run may have been killed before it removed the file
	}
	t, err := h.newTrip("")
	if err != nil {
		return LogError(err)
	}
	defer t.Unlock()
	if len(args) == 1 {
		for _, err := range t.ReleaseWaiters(args[0]) {
			LogError(err) // Settle tries again
		}
	}
	if err := endLeftovers(ctx); err != nil {
		return LogError(err)
	}
	code := 0
	for _, err := range t.SettleAll(ctx) {
		code = LogError(err)
	}
	return code
}

// ReleaseWaiters calls Release for each unfinished entry of the run with this id, which has ended. It returns an error
// for each entry where that failed.
func (t *Run) ReleaseWaiters(id string) []error {
	entries, err := t.Journal.Unfinished()
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, e := range entries {
		release := t.handlers[e.Kind].Release
		if release == nil || !isEntryOf(e, id) {
			continue
		}
		if err := release(e); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// SettleAll settles every unfinished entry. It returns an error for each one that it could not settle.
func (t *Run) SettleAll(ctx context.Context) []error {
	entries, err := t.Journal.Unfinished()
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, e := range entries {
		if err := t.lockAndSettle(ctx, e); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// lockAndSettle settles e with its groups locked, unless another run has settled it meanwhile. Afterwards it gives all
// locks back.
func (t *Run) lockAndSettle(ctx context.Context, e *journal.Entry) error {
	defer t.Unlock()
	if _, err := t.locks.lock(ctx, e.Groups, "settling "+e.Kind+" "+e.Set, time.Now()); err != nil {
		return err
	}
	current, err := t.Journal.Load(e.ID) // a run that held the lock may have settled the entry
	if err != nil || current.Outcome != journal.Unfinished {
		return err
	}
	return t.settleEntry(ctx, current)
}

// newTrip returns the Trip of the run with this id. An empty id is for a process that only settles.
func (h Handlers) newTrip(id string) (*Run, error) {
	j, err := journal.Open(JournalDir)
	if err != nil {
		return nil, err
	}
	t := h.RunIn(j, filepath.Join(RuntimeDir, "lock"), id)
	t.notify = func(s string) { _ = service.Notify(s) }
	if id != "" {
		t.dir = runDir(id)
	}
	t.locks.onWait = func(what string) { t.Progress(what, -1) }
	return t, nil
}

// RunIn returns the run with this id, with its journal and its locks in these places, for tests. It has no unit, and
// nobody waits for its answer.
func (h Handlers) RunIn(j *journal.Journal, lockDir, id string) *Run {
	return &Run{Journal: j, handlers: h, id: id, locks: newLocks(lockDir)}
}

// LogError writes err and its hint to standard error, which in a unit goes to systemd's journal. It returns 1, the exit
// code for a failure.
func LogError(err error) int {
	f := fault.Of(err)
	os.Stderr.WriteString(f.Error() + "\n")
	if f.Hint != "" {
		os.Stderr.WriteString("hint: " + f.Hint + "\n")
	}
	return 1
}

// formatInt returns n in decimal.
func formatInt(n int64) string { return strconv.FormatInt(n, 10) }
