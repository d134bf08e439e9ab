package access

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

// Host starts the backend of a request, gives it its secrets, and masks these in results and errors.
type Host struct {
	use     Use
	program plugin.Program
	secret  Secret
	runDir  string // the directory of the run
	mask    *ansible.Hidden
}

// Open finds the backend's program and reads the run's secrets, which removes them from the run's directory. Faults:
// those of plugin.Find, internal.
func Open(t *journey.Run, b Backends, use Use) (*Host, error) {
	h := &Host{use: use, runDir: t.Dir()}
	if err := t.Secret(&h.secret); err != nil {
		return nil, err
	}
	h.mask = ansible.Hide(append(slices.Collect(maps.Values(h.secret.Environment)), h.secret.Hide...)...)
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

// start starts a process of the backend in the mount namespace of the calling thread.
func (h *Host) start(ctx context.Context) (*plugin.Client, error) {
	return plugin.Host{
		SocketDir: h.runDir, Stall: h.use.Stall,
		Log: func(line string) { os.Stderr.WriteString(h.mask.Text(line) + "\n") }, // to systemd's journal
	}.Start(ctx, h.program)
}

// Config returns the Config for every call of the backend. Its scratch directory is in the run's directory, and Config
// makes it if it does not exist.
func (h *Host) Config() backup.Config {
	scratch := filepath.Join(h.runDir, "scratch")
	_ = os.MkdirAll(scratch, 0o700) // if this fails, a backend that needs the directory reports it
	return backup.Config{
		Options: h.use.Options, Environment: h.secret.Environment, Host: h.use.Host, Machine: backup.ThisMachine(),
		Scratch: scratch,
	}
}

// recordsDir has one directory for each backend, with the records of its backups.
const recordsDir = journey.StateDir + "/records"

// Records returns the keeper of the records of the backend's backups.
func (h *Host) Records() record.Keeper {
	return record.Keeper{Dir: filepath.Join(recordsDir, h.use.Backend)}
}

// Forget removes the record of a backup, which is of no use without the backup, and has the backend forget the backup.
func (h *Host) Forget(ctx context.Context, client backup.Backend, id string) error {
	_ = h.Records().Remove(id) // a record without a backup does no harm
	return client.Forget(ctx, h.Config(), id)
}

// MaskText masks the secrets in a text.
func (h *Host) MaskText(s string) string { return h.mask.Text(s) }

// MaskResult masks the secrets in the message and the warnings of a result. The commands contain no secrets, because
// tools get these in the environment. The data are numbers, paths and IDs, and are not masked: one of them may contain
// the value of a variable that is no secret.
func (h *Host) MaskResult(r ansible.Result) ansible.Result {
	r.Msg = h.mask.Text(r.Msg)
	for i, warning := range r.Warnings {
		r.Warnings[i] = h.mask.Text(warning)
	}
	return r
}

// MaskError masks the secrets in a backend's error, and returns it as a *fault.Error that wraps no other error. It
// returns nil for nil.
func (h *Host) MaskError(err error) error {
	if err == nil {
		return nil
	}
	f := *fault.Of(err)
	f.Msg, f.Hint, f.Err = h.mask.Text(f.Msg), h.mask.Text(f.Hint), nil
	f.Facts = h.mask.Facts(f.Facts)
	return &f
}
