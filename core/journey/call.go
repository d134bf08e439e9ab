package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Call is a journey as the module asks for it.
type Call struct {
	Kind    string
	Title   string         // for people: `systemctl status` shows it
	Set     string         // the name of the set that it works on; empty: of none, or of snapshots made by hand
	Request any            // what Handler.Do is given, as JSON; equal requests are one journey
	Secret  any            // what Trip.Secret is given, as JSON: lies in memory until the journey has begun, no longer
	Limit   time.Duration  // of the whole journey, unless it extends it
	Notice  func(Progress) // called as the journey goes on; may be nil
}

// request is what the request file holds.
type request struct {
	Kind    string          `json:"kind"`
	Title   string          `json:"title"`
	Set     string          `json:"name,omitempty"`
	Request json.RawMessage `json:"request"`
}

// stopLimit bounds what settle may take after the end of the unit's main process. What settle has not done by then is
// done by the next journey, or at boot.
const stopLimit = 10 * time.Minute

// Permitted refuses to work in a container, whose volumes belong to its host (unsupported), and without root
// (not_root).
func Permitted() error {
	if err := filesystem.OnHost(); err != nil {
		return err
	}
	return AsRoot()
}

// AsRoot refuses to work without root (not_root).
func AsRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fault.New(fault.NotRoot, "only root may work with volumes and their backups").
		WithHint("become: true in the playbook, -b on ansible's command line, or sudo")
}

// Make makes the journey and returns its result. If the same one is under way, it waits for that one instead.
//
// It needs root (not_root) and systemd (unsupported). A journey that was killed is an interrupted fault that says at
// which step, and whether it was undone.
func Make(ctx context.Context, c Call) (ansible.Result, error) { return c.make(ctx, false, nil) }

// make returns without the result at once, if detached, and when patience, which may be nil, is over.
func (c Call) make(ctx context.Context, detached bool, patience <-chan time.Time) (ansible.Result, error) {
	if err := AsRoot(); err != nil {
		return ansible.Result{}, err
	}
	systemd, err := service.Connect(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer systemd.Close()
	body, err := json.Marshal(c.Request)
	if err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	id, first, err := start(ctx, systemd, c, request{c.Kind, c.Title, c.Set, body})
	if err != nil {
		return ansible.Result{}, err
	}
	if detached {
		return begun(id, first), nil
	}
	r, _, err := wait(ctx, systemd, id, c.Notice, patience)
	return r, err
}

// start returns the id of the journey: one under way, or a new one, and whether it is new.
func start(ctx context.Context, systemd *service.Systemd, c Call, req request) (id string, first bool, err error) {
	data, err := json.Marshal(req)
	if err != nil {
		return "", false, fault.New(fault.Internal, "request: %w", err)
	}
	id, err = underWay(ctx, systemd, data)
	if id != "" || err != nil {
		return id, false, err
	}
	bin, err := Install()
	if err != nil {
		return "", false, err
	}
	id = journal.NewID()
	dir := journeyDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, fault.New(fault.Internal, "journey: %w", err)
	}
	if err := replace(filepath.Join(dir, "request"), data); err != nil {
		return "", false, fault.New(fault.Internal, "journey: %w", err)
	}
	if err := leaveSecret(dir, c.Secret); err != nil {
		return "", false, fault.New(fault.Internal, "journey: %w", err)
	}
	err = systemd.StartTransient(ctx, service.Transient{
		Name: unitOf(id), Description: "Rewind: " + c.Title,
		Exec: []string{bin, "journey", id}, StopPost: []string{bin, "settle", id},
		Limit: c.Limit, StopLimit: stopLimit, Environment: []string{command.Unsignalled},
	})
	if err != nil {
		_ = os.RemoveAll(dir) // the secret; should the unit come up all the same, it finds no request and changes nothing
	}
	return id, true, err
}

func leaveSecret(dir string, secret any) error {
	if secret == nil {
		return nil
	}
	data, err := json.Marshal(secret)
	if err != nil {
		return errors.New("the secret is not fit for JSON")
	}
	return replace(filepath.Join(dir, secretFile), data)
}

// UnitPrefix is how the names of our own units begin.
const UnitPrefix = "rewind-"

const secretFile = "secret"

func journeyDir(id string) string { return filepath.Join(Run, "journey", id) }

func unitOf(id string) string { return UnitPrefix + id + ".service" }

// underWay finds a running journey with exactly this request that has not given its result yet. It also removes what
// ended journeys left in Run.
func underWay(ctx context.Context, systemd *service.Systemd, data []byte) (string, error) {
	dirs, err := journeys()
	if err != nil {
		return "", err
	}
	active, ended, err := sorted(ctx, systemd, dirs)
	if err != nil {
		return "", err
	}
	for _, d := range ended {
		// Its module may still be reading the result.
		if info, err := d.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(journeyDir(d.Name()))
		}
	}
	for _, id := range active {
		theirs, _ := os.ReadFile(filepath.Join(journeyDir(id), "request"))
		_, answered := os.Stat(filepath.Join(journeyDir(id), "result"))
		if bytes.Equal(theirs, data) && answered != nil {
			return id, nil
		}
	}
	return "", nil
}

// wait returns the journey's result as soon as it is given, which may be before the unit ends. When patience is over
// first, which may be nil, it returns how far the journey is. known: what came of it is known.
func wait(
	ctx context.Context, systemd *service.Systemd, id string, show func(Progress), patience <-chan time.Time,
) (r ansible.Result, known bool, err error) {
	dir, unit := journeyDir(id), unitOf(id)
	ended := make(chan error, 1)
	go func() { ended <- systemd.Wait(ctx, unit) }()
	answered, news, stop, err := appears(filepath.Join(dir, "result"))
	if err != nil {
		return r, false, err
	}
	defer stop()
	for {
		select {
		case <-answered:
			r, err = result(dir, id)
			return r, true, err
		case err := <-ended:
			if err != nil {
				return r, false, left(unit, err)
			}
			r, err = result(dir, id)
			return r, true, err
		case <-patience:
			if going, err := systemd.Active(ctx, unit); err != nil {
				return r, false, left(unit, err)
			} else if going && !exists(filepath.Join(dir, "result")) {
				return goesOn(id), false, nil
			}
			r, err = result(dir, id)
			return r, true, err
		case <-news:
			notice(dir, show)
		}
	}
}

// left is what a call says that ends before its journey.
func left(unit string, err error) error {
	f := fault.New(fault.Of(err).Code, "waiting for %s: %w", unit, err)
	if errors.Is(err, context.Canceled) {
		f = fault.New(fault.Interrupted, "this call was ended, not the run: %s goes on", unit)
	}
	return f.WithHint("the same again waits for it; systemctl status %s shows it", unit)
}

// Show makes a journey, and shows whoever typed it by hand how it goes on. With --check nothing is detached: what would
// be done is all that is asked for.
func Show(ctx context.Context, by ansible.Call, w Waiting, c Call) (ansible.Result, error) {
	bar := ansible.Bar(by.Progress, by.Terminal)
	defer bar.Done()
	if by.Hand {
		c.Notice = func(p Progress) { bar.Show(p.Label, p.Percent, p.Bytes) }
	}
	var patience <-chan time.Time
	if by.Patience > 0 {
		patience = time.After(by.Patience)
	}
	return c.make(ctx, w.Detach && !by.Check, patience)
}

func notice(dir string, show func(Progress)) {
	if show == nil {
		return
	}
	var p Progress
	data, err := os.ReadFile(filepath.Join(dir, "progress"))
	if err == nil && json.Unmarshal(data, &p) == nil {
		show(p)
	}
}

func result(dir, id string) (ansible.Result, error) {
	data, err := os.ReadFile(filepath.Join(dir, "result"))
	if err != nil {
		return ansible.Result{}, interrupted(id)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "result of journey %s: %w", id, err)
	}
	if a.Fault != nil {
		return a.Result, a.Fault
	}
	return a.Result, nil
}

// lastOf returns the last entry of a journey.
func lastOf(j *journal.Journal, id string) (*journal.Entry, error) {
	last, err := j.Load(id)
	for n := 2; err == nil; n++ {
		next, none := j.Load(nth(id, n))
		if none != nil {
			break
		}
		last = next
	}
	return last, err
}

// interrupted says what became of a journey that ended without a result.
func interrupted(id string) error {
	unit := unitOf(id)
	j, err := journal.Open(JournalDir)
	if err != nil {
		return err
	}
	e, err := lastOf(j, id)
	if err != nil {
		return fault.New(fault.Interrupted, "the run (%s) was ended from outside, and there is no record that it changed anything", unit).
			WithHint("journalctl -u %s says by what; run the same task again", unit)
	}
	f := fault.New(fault.Interrupted, "the run (%s) was ended from outside", unit).With("step", e.Step)
	switch e.Outcome {
	case journal.Undone:
		f.Msg += "; what it had begun was undone"
		return f.WithHint("journalctl -u %s says by what; run the same task again", unit)
	case journal.Done:
		f.Msg += "; it was carried to its end all the same"
		return f.WithHint("run the same task again to see the result")
	}
	f.Msg += " at step " + e.Step + " and is not settled yet"
	return f.WithHint("run the same task again: it settles this first; journalctl -u %s says what happened", unit)
}
