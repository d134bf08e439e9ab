package journey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Waiting holds the arguments with which a caller does not wait for a run: detach starts a run without waiting, and run
// asks about one. Every module that starts runs has them.
type Waiting struct {
	Detach bool   `mapstructure:"detach" doc:"Return as soon as the run has begun, with its id, for run; the run goes on, and changed says that it was begun. The same again while it is under way returns the same id. With --check nothing is begun, and there is no id."`
	Run    string `mapstructure:"run" doc:"The id of a run: begin none, but say how far that one is and, once it has ended, what came of it. That is kept for an hour after its end, until the next boot at most. All other arguments are left alone."`
}

// Validate returns the fault bad_arguments if Run is not an id, or if Detach is set too.
func (w Waiting) Validate() error {
	switch {
	case w.Run != "" && !journal.IsID(w.Run):
		return ansible.Bad("run", "%q is no id of a run, such as 20260131t235959-123456-0a1b2c", w.Run)
	case w.Run != "" && w.Detach:
		return ansible.Bad("detach", "begins a run, and run looks at one")
	}
	return nil
}

// Look returns how far the run with this id is, or the run's result. It waits for the end of the run for
// caller.Patience at most. The key "finished" in the result says whether the run's outcome is known.
//
// A run that this server does not know, or knows no longer, is the fault not_found; the others are not_root, and
// unsupported without systemd. If finished is true, any other fault is that of the run. If finished is false, a fault
// means that the state of the run could not be found out.
func Look(ctx context.Context, caller ansible.Call, id string) (ansible.Result, error) {
	r, final, err := look(ctx, id, caller.Patience)
	if r.Data == nil {
		r.Data = map[string]any{}
	}
	r.Data[finishedKey] = final
	if err != nil && !final {
		err = fault.New(fault.Of(err).Code, "%w", err).
			WithHint("ask for the run again; systemctl status %s shows it", unitOf(id))
	} else if errors.Is(err, fault.Interrupted) {
		err = fault.New(fault.Interrupted, "%w", err).
			WithHint("run the task that began it again: that settles what is left, or says what came of the run; "+
				"journalctl -u %s says by what it was ended", unitOf(id))
	}
	return r, err
}

// look is Look without its hints. final is true if r and err are what the run came to, or if there is no such run.
func look(ctx context.Context, id string, maxWait time.Duration) (r ansible.Result, final bool, err error) {
	if err := RequireRoot(); err != nil {
		return r, true, err
	}
	if _, err := os.Stat(filepath.Join(runDir(id), "request")); errors.Is(err, fs.ErrNotExist) {
		return r, true, fault.New(fault.NotFound,
			"there is no run %s on this server: what came of one is kept for an hour after its end, "+
				"until the next boot at most", id).
			WithHint("lvm_snapshot_info says what is under way, and what the last rollback and the last backups came to")
	}
	systemd, err := service.Connect(ctx)
	if err != nil {
		return r, false, err
	}
	defer systemd.Close()
	return wait(ctx, systemd, id, nil, time.After(maxWait))
}

// finishedKey is the key of a result that says whether the run has ended. Ansible's async_status has the same key.
const finishedKey = "finished"

// unfinishedResult returns the result for a run that is under way: its status and its progress.
func unfinishedResult(id string) ansible.Result {
	s, _ := readStatus(runDir(id))
	s.ID, s.Unit = id, unitOf(id)
	msg := fmt.Sprintf("run %s goes on: %s", id, s.Title)
	if s.Label != "" {
		msg += ": " + s.Label
	}
	if s.Percent != nil {
		msg += fmt.Sprintf(" %.0f %%", *s.Percent)
	}
	if s.Bytes > 0 {
		msg += " " + ansible.Bytes(s.Bytes)
	}
	return ansible.Result{Msg: msg, Data: map[string]any{finishedKey: false, "run": s}}
}

// detachedResult returns the result for a caller that does not wait. isNew is true if this call started the run.
func detachedResult(id string, isNew bool) ansible.Result {
	r := unfinishedResult(id)
	if isNew {
		r.Changed = true
		r.Msg = fmt.Sprintf("run %s has begun: %s", id, r.Data["run"].(Status).Title)
	}
	return r
}
