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

// Call is what a module asks for when it starts a run.
type Call struct {
	Kind    string         // the key in Handlers
	Title   string         // for people: `systemctl status` shows it
	Set     string         // the set that the run works on; empty for no set, or for snapshots made by hand
	Request any            // passed to Handler.Do as JSON; two calls with equal requests share one run
	Secret  any            // decoded by Run.Secret; kept as JSON in a file in memory until the run has read it
	Limit   time.Duration  // for the whole run, unless the run calls Run.Extend
	Notice  func(Progress) // called for each change of the progress; may be nil
}

// request is the content of the request file.
type request struct {
	Kind    string          `json:"kind"`
	Title   string          `json:"title"`
	Set     string          `json:"name,omitempty"`
	Request json.RawMessage `json:"request"`
}

// stopLimit is the time limit of the settle command (ExecStopPost=), which runs after the unit's main process has
// ended. What settle has not done by then is done by the next run, or at boot.
const stopLimit = 10 * time.Minute

// RequireHostAndRoot returns the fault unsupported in a container, whose volumes belong to its host, and not_root if
// the process is not root's.
func RequireHostAndRoot() error {
	if err := filesystem.OnHost(); err != nil {
		return err
	}
	return RequireRoot()
}

// RequireRoot returns the fault not_root if the process is not root's.
func RequireRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fault.New(fault.NotRoot, "only root may work with volumes and their backups").
		WithHint("become: true in the playbook, -b on ansible's command line, or sudo")
}

// Make starts a run, waits for it and returns its result. If a run with an equal request is under way, Make waits for
// that run instead.
//
// Its faults are not_root without root, unsupported without systemd, those of Install, and those of the run. A run that
// was killed is the fault interrupted, which says at which step and whether the run was undone.
func Make(ctx context.Context, c Call) (ansible.Result, error) { return c.make(ctx, false, nil) }

// make is Make with two ways to return before the result is there: at once if detached is set, and when deadline fires.
// deadline may be nil.
func (c Call) make(ctx context.Context, detached bool, deadline <-chan time.Time) (ansible.Result, error) {
	if err := RequireRoot(); err != nil {
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
	id, isNew, err := start(ctx, systemd, c, request{c.Kind, c.Title, c.Set, body})
	if err != nil {
		return ansible.Result{}, err
	}
	if detached {
		return detachedResult(id, isNew), nil
	}
	r, _, err := wait(ctx, systemd, id, c.Notice, deadline)
	return r, err
}

// start starts a run unless one with an equal request is under way. It returns the id of the run, and whether the run
// is new.
func start(ctx context.Context, systemd *service.Systemd, c Call, req request) (id string, isNew bool, err error) {
	data, err := json.Marshal(req)
	if err != nil {
		return "", false, fault.New(fault.Internal, "request: %w", err)
	}
	id, err = findEqual(ctx, systemd, data)
	if id != "" || err != nil {
		return id, false, err
	}
	bin, err := Install()
	if err != nil {
		return "", false, err
	}
	id = journal.NewID()
	dir := runDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, fault.New(fault.Internal, "prepare the run: %w", err)
	}
	if err := replaceFile(filepath.Join(dir, "request"), data); err != nil {
		return "", false, fault.New(fault.Internal, "prepare the run: %w", err)
	}
	if err := writeSecret(dir, c.Secret); err != nil {
		return "", false, fault.New(fault.Internal, "prepare the run: %w", err)
	}
	err = systemd.StartTransient(ctx, service.Transient{
		Name: unitOf(id), Description: "Rewind: " + c.Title,
		Exec: []string{bin, "journey", id}, StopPost: []string{bin, "settle", id},
		Limit: c.Limit, StopLimit: stopLimit, Environment: []string{command.Unsignalled},
	})
	if err != nil {
		// No secret may stay behind. If the unit starts in spite of the error, it finds no request and changes nothing.
		_ = os.RemoveAll(dir)
	}
	return id, true, err
}

// writeSecret writes the secret to a file in dir, unless it is nil. Run.takeSecret reads and removes the file.
func writeSecret(dir string, secret any) error {
	if secret == nil {
		return nil
	}
	data, err := json.Marshal(secret)
	if err != nil {
		return errors.New("the secret cannot be encoded as JSON") // the cause might quote the secret
	}
	return replaceFile(filepath.Join(dir, secretFile), data)
}

// UnitPrefix begins the name of each systemd unit of Rewind.
const UnitPrefix = "rewind-"

const secretFile = "secret"

// runDir returns the directory of a run: its request, secret, progress and result.
func runDir(id string) string { return filepath.Join(RuntimeDir, "journey", id) }

// unitOf returns the name of a run's systemd unit.
func unitOf(id string) string { return UnitPrefix + id + ".service" }

// findEqual returns the id of a run under way whose request file holds exactly these bytes and that has not answered
// yet; empty if there is none. It also removes the directories of runs that ended more than an hour ago.
func findEqual(ctx context.Context, systemd *service.Systemd, wanted []byte) (string, error) {
	dirs, err := runDirs()
	if err != nil {
		return "", err
	}
	active, ended, err := splitActive(ctx, systemd, dirs)
	if err != nil {
		return "", err
	}
	for _, d := range ended {
		// The module that started the run may still be reading the result, or another call may ask for it.
		if info, err := d.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(runDir(d.Name()))
		}
	}
	for _, id := range active {
		data, _ := os.ReadFile(filepath.Join(runDir(id), "request"))
		_, notAnswered := os.Stat(filepath.Join(runDir(id), "result"))
		if bytes.Equal(data, wanted) && notAnswered != nil {
			return id, nil
		}
	}
	return "", nil
}

// wait returns the run's result as soon as it is there, which may be before the unit ends. If deadline fires first,
// wait returns how far the run is; deadline may be nil. final is true if r and err are what the run came to.
func wait(
	ctx context.Context, systemd *service.Systemd, id string, show func(Progress), deadline <-chan time.Time,
) (r ansible.Result, final bool, err error) {
	dir, unit := runDir(id), unitOf(id)
	ended := make(chan error, 1)
	go func() { ended <- systemd.Wait(ctx, unit) }()
	answered, changed, stop := watchFor(filepath.Join(dir, "result"))
	defer stop()
	for {
		select {
		case <-answered:
			r, err = readResult(dir, id)
			return r, true, err
		case err := <-ended:
			if err != nil {
				return r, false, waitFault(unit, err)
			}
			r, err = readResult(dir, id)
			return r, true, err
		case <-deadline:
			if active, err := systemd.Active(ctx, unit); err != nil {
				return r, false, waitFault(unit, err)
			} else if active && !exists(filepath.Join(dir, "result")) {
				return unfinishedResult(id), false, nil
			}
			r, err = readResult(dir, id)
			return r, true, err
		case <-changed:
			showProgress(dir, show)
		}
	}
}

// waitFault is the fault of a call that ends before its run does.
func waitFault(unit string, err error) error {
	f := fault.New(fault.Of(err).Code, "waiting for %s: %w", unit, err)
	if errors.Is(err, context.Canceled) {
		f = fault.New(fault.Interrupted, "this call was ended, not the run: %s goes on", unit)
	}
	return f.WithHint("the same call again waits for it; systemctl status %s shows it", unit)
}

// Show is Make for a module that was called with the arguments w. It shows the progress to a person, and it returns
// before the result is there if w.Detach is set, or if the run takes longer than caller.Patience. With --check it does
// not detach, because what would be done is all that the caller asks for. The faults are those of Make.
func Show(ctx context.Context, caller ansible.Call, w Waiting, c Call) (ansible.Result, error) {
	bar := ansible.Bar(caller.Progress, caller.Terminal)
	defer bar.Done()
	if caller.Hand {
		c.Notice = func(p Progress) { bar.Show(p.Label, p.Percent, p.Bytes) }
	}
	var deadline <-chan time.Time
	if caller.Patience > 0 {
		deadline = time.After(caller.Patience)
	}
	return c.make(ctx, w.Detach && !caller.Check, deadline)
}

// showProgress calls show with the progress of the run in dir, if there is any. show may be nil.
func showProgress(dir string, show func(Progress)) {
	if show == nil {
		return
	}
	var p Progress
	data, err := os.ReadFile(filepath.Join(dir, "progress"))
	if err == nil && json.Unmarshal(data, &p) == nil {
		show(p)
	}
}

// readResult returns the answer of a run that has answered or ended.
func readResult(dir, id string) (ansible.Result, error) {
	data, err := os.ReadFile(filepath.Join(dir, "result"))
	if err != nil {
		return ansible.Result{}, interrupted(id)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "result of run %s: %w", id, err)
	}
	if a.Fault != nil {
		return a.Result, a.Fault
	}
	return a.Result, nil
}

// lastEntry returns the last journal entry of a run.
func lastEntry(j *journal.Journal, runID string) (*journal.Entry, error) {
	last, err := j.Load(runID)
	for n := 2; err == nil; n++ {
		next, loadErr := j.Load(entryID(runID, n))
		if loadErr != nil {
			break
		}
		last = next
	}
	return last, err
}

// interrupted returns the fault of a run that ended without a result: it says what became of the run's changes.
func interrupted(id string) error {
	unit := unitOf(id)
	j, err := journal.Open(JournalDir)
	if err != nil {
		return err
	}
	e, err := lastEntry(j, id)
	if err != nil {
		return fault.New(fault.Interrupted,
			"the run (%s) was ended from outside, and there is no record that it changed anything", unit).
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
