package run

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Host starts the backend of a request, with its secrets, and hides them in what comes back.
type Host struct {
	use     Use
	program plugin.Program
	secret  Secret
	dir     string
	hidden  *ansible.Hidden
}

// Open finds the backend's program and takes the journey's secrets.
func Open(t *journey.Trip, b Backends, use Use) (*Host, error) {
	h := &Host{use: use, dir: t.Dir()}
	if err := t.Secret(&h.secret); err != nil {
		return nil, err
	}
	h.hidden = ansible.Hide(append(slices.Collect(maps.Values(h.secret.Environment)), h.secret.Hide...)...)
	if b[use.Backend] == nil {
		program, err := plugin.Find(use.Backend, use.SHA256)
		if err != nil {
			return nil, fault.New(fault.Of(err).Code, "backend %s: %w", use.Backend, err)
		}
		h.program = program
		return h, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	h.program = plugin.Program{Name: use.Backend, Argv: []string{self, "backend", use.Backend}}
	return h, nil
}

// start starts a process of the backend. It sees the mounts of the thread it is started on.
func (h *Host) start(ctx context.Context) (*plugin.Client, error) {
	return plugin.Host{
		SocketDir: h.dir, Stall: h.use.Stall,
		Log: func(line string) { os.Stderr.WriteString(h.hidden.Text(line) + "\n") }, // to the system's journal
	}.Start(ctx, h.program)
}

// Config is what every call of the backend is given. Its scratch directory is the journey's.
func (h *Host) Config() backup.Config {
	scratch := filepath.Join(h.dir, "scratch")
	_ = os.MkdirAll(scratch, 0o700) // a backend that cannot use it says so
	return backup.Config{Options: h.use.Options, Environment: h.secret.Environment, Host: h.use.Host, Scratch: scratch}
}

// recordsDir holds the records of each backend's backups.
const recordsDir = journey.State + "/records"

// Records keeps what the files of the backend's backups were like.
func (h *Host) Records() record.Keeper {
	return record.Keeper{Dir: filepath.Join(recordsDir, h.use.Backend)}
}

// forget has the backend forget a backup, whose record goes first: without the backup it is of no use.
func (h *Host) forget(ctx context.Context, client backup.Backend, id string) error {
	_ = h.Records().Remove(id) // one that stays does no harm
	return client.Forget(ctx, h.Config(), id)
}

// Cover takes the secrets out of what a result says in words. Its commands hold none, they are given in the
// environment; its data are numbers, paths and ids, which a setting that is no secret may be a part of: they stay what
// they are.
func (h *Host) Cover(r ansible.Result) ansible.Result {
	r.Msg = h.hidden.Text(r.Msg)
	for i, warning := range r.Warnings {
		r.Warnings[i] = h.hidden.Text(warning)
	}
	return r
}

// Hide takes the secrets out of a backend's error.
func (h *Host) Hide(err error) error {
	if err == nil {
		return nil
	}
	f := *fault.Of(err)
	f.Msg, f.Hint, f.Err = h.hidden.Text(f.Msg), h.hidden.Text(f.Hint), nil
	f.Facts = h.hidden.Facts(f.Facts)
	return &f
}
