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
	"strings"
	"syscall"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Internal are the hidden commands of a module that makes journeys; they are what the unit runs.
func (h Handlers) Internal() map[string]func(context.Context, []string) int {
	return map[string]func(context.Context, []string) int{
		"journey": h.journey,
		"settle":  h.settle,
	}
}

// journey is the main process of the unit.
func (h Handlers) journey(ctx context.Context, args []string) int {
	if len(args) != 1 {
		return 2
	}
	// systemd asks for an end at shutdown or at the time limit. The context ends; each step ends at the next place
	// where it can be left.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	t, err := h.trip(args[0])
	if err != nil {
		return Say(err)
	}
	defer t.Unlock()
	r, err := h.do(ctx, t)
	if t.Answer(r, err) != nil {
		return 1
	}
	return 0 // a failure is in the result; a failed unit would only stay to be reset
}

func (h Handlers) do(ctx context.Context, t *Trip) (r ansible.Result, err error) {
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
		return r, fault.New(fault.Internal, "no journey of kind %q in this program", req.Kind)
	}
	return handler.Do(ctx, t, req.Request)
}

// takeSecret reads the secret and removes its file.
func (t *Trip) takeSecret() (err error) {
	path := filepath.Join(t.dir, secretFile)
	t.secret, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.Remove(path))
}

// settle is the unit's ExecStopPost=, and what the boot unit runs. It settles every unfinished entry.
func (h Handlers) settle(ctx context.Context, args []string) int {
	if len(args) == 1 {
		_ = os.Remove(filepath.Join(journeyDir(args[0]), secretFile)) // killed before it took it
	}
	t, err := h.trip("")
	if err != nil {
		return Say(err)
	}
	defer t.Unlock()
	entries, err := t.Journal.Unfinished()
	if err != nil {
		return Say(err)
	}
	if len(args) == 1 {
		h.release(entries, args[0])
	}
	if err := leftovers(ctx); err != nil {
		return Say(err)
	}
	code := 0
	for _, e := range entries {
		if err := t.settleAlone(ctx, e); err != nil {
			code = Say(err)
		}
	}
	return code
}

// release lets go on what waits for the journey of that id, which has ended.
func (h Handlers) release(entries []*journal.Entry, id string) {
	for _, e := range entries {
		let := h[e.Kind].Release
		if let == nil || e.ID != id && !strings.HasPrefix(e.ID, id+"-") {
			continue
		}
		if err := let(e); err != nil {
			Say(err) // settling tries again
		}
	}
}

func (t *Trip) settleAlone(ctx context.Context, e *journal.Entry) error {
	defer t.Unlock()
	if _, err := t.locks.take(ctx, e.Groups, "settling "+e.Kind+" "+e.Set, time.Now()); err != nil {
		return err
	}
	now, err := t.Journal.Load(e.ID) // whoever held the lock may have settled it
	if err != nil || now.Outcome != journal.Unfinished {
		return err
	}
	return t.settleEntry(ctx, now)
}

func (h Handlers) trip(id string) (*Trip, error) {
	j, err := journal.Open(JournalDir)
	if err != nil {
		return nil, err
	}
	t := &Trip{
		Journal: j, handlers: h, id: id,
		locks:  newLocks(filepath.Join(Run, "lock")),
		notify: func(s string) { _ = service.Notify(s) },
	}
	if id != "" {
		t.dir = journeyDir(id)
	}
	t.locks.tell = func(what string) { t.Progress(what, -1) }
	return t, nil
}

// Say tells the system's journal, which is where the unit's standard error goes.
func Say(err error) int {
	f := fault.Of(err)
	os.Stderr.WriteString(f.Error() + "\n")
	if f.Hint != "" {
		os.Stderr.WriteString("hint: " + f.Hint + "\n")
	}
	return 1
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }
