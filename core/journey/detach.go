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

// Waiting are the arguments of a caller that does not wait for a run, for every module that begins one.
type Waiting struct {
	Detach bool   `mapstructure:"detach" doc:"Return as soon as the run has begun, with its id, for run; the run goes on, and changed says that it was begun. The same again while it is under way returns the same id. With --check nothing is begun, and there is no id."`
	Run    string `mapstructure:"run" doc:"The id of a run: begin none, but say how far that one is and, once it has ended, what came of it. That is kept for an hour after its end, until the next boot at most. All other arguments are left alone."`
}

// Validate says what is wrong with them.
func (w Waiting) Validate() error {
	switch {
	case w.Run != "" && !journal.IsID(w.Run):
		return ansible.Bad("run", "%q is no id of a run, such as 20260131t235959-123456-0a1b2c", w.Run)
	case w.Run != "" && w.Detach:
		return ansible.Bad("detach", "begins a run, and run looks at one")
	}
	return nil
}

// Look says how far a run is that this server began, or what came of it. It waits for the end as long as the caller's
// patience lasts.
//
// not_found: there is no such run, or none any more. Other faults are those of the run, or, if the result says that it
// is not finished, of asking for it.
func Look(ctx context.Context, by ansible.Call, id string) (ansible.Result, error) {
	r, known, err := look(ctx, id, by.Patience)
	if r.Data == nil {
		r.Data = map[string]any{}
	}
	r.Data[finished] = known
	if err != nil && !known {
		err = fault.New(fault.Of(err).Code, "%w", err).WithHint("ask for it again; systemctl status %s shows it", unitOf(id))
	} else if errors.Is(err, fault.Interrupted) {
		err = fault.New(fault.Interrupted, "%w", err).
			WithHint("the task that began it, again, settles what is left or says what it came to; "+
				"journalctl -u %s says by what it was ended", unitOf(id))
	}
	return r, err
}

// look tells also whether it is known what came of the run.
func look(ctx context.Context, id string, patience time.Duration) (r ansible.Result, known bool, err error) {
	if err := AsRoot(); err != nil {
		return r, true, err
	}
	if _, err := os.Stat(filepath.Join(journeyDir(id), "request")); errors.Is(err, fs.ErrNotExist) {
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
	return wait(ctx, systemd, id, nil, time.After(patience))
}

// finished is a result's key for whether the run has ended, as Ansible's own asynchronous tasks have it.
const finished = "finished"

// goesOn is what is said of a run that is under way.
func goesOn(id string) ansible.Result {
	s, _ := status(journeyDir(id))
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
	return ansible.Result{Msg: msg, Data: map[string]any{finished: false, "run": s}}
}

// begun is what is said of a run that nobody waits for. first: it began with this call.
func begun(id string, first bool) ansible.Result {
	r := goesOn(id)
	if first {
		r.Changed = true
		r.Msg = fmt.Sprintf("run %s has begun: %s", id, r.Data["run"].(Status).Title)
	}
	return r
}
