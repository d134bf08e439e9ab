// Package access is what a backup and a restore have in common: how a run reaches its backend, with which secrets,
// where the backend's places may lie, under which paths it sees volumes, and which of its backups is meant.
package access

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// Use says which backend to use, and how.
type Use struct {
	Backend string         `json:"backend"`
	SHA256  string         `json:"sha256,omitempty"` // of the backend's program, in hexadecimal
	Options map[string]any `json:"options,omitempty"`
	Host    string         `json:"host"`  // the host whose backups these are
	Stall   time.Duration  `json:"stall"` // a backend that is silent for so long has failed
}

// Secret is the part of a request that must not be written to a disk.
type Secret struct {
	Environment map[string]string `json:"environment,omitempty"`
	Hide        []string          `json:"hide,omitempty"` // other secrets to be masked: the content of password files
}

// Backends has the constructors of the built-in backends, by name.
type Backends map[string]func() backup.Backend

// Serve is the main program of a built-in backend; args is its name. It returns the exit code, which is 2 if there is
// no such backend.
func (b Backends) Serve(args []string) int {
	if len(args) != 1 || b[args[0]] == nil {
		return 2
	}
	return plugin.Serve(b[args[0]]())
}

// BackendHandler returns the handler of runs that use a backend. R is the type of their requests, and use returns the
// part of a request that says which backend. do makes the run. Its answer is masked here, because a program that asks
// for the answer of a run later, by the run's ID, does not know the secrets.
func BackendHandler[R any](
	b Backends, use func(R) Use, do func(context.Context, *journey.Run, *Host, R) (ansible.Result, error),
) journey.Handler {
	return journey.Handler{
		Do: func(ctx context.Context, t *journey.Run, data json.RawMessage) (ansible.Result, error) {
			var r R
			if err := json.Unmarshal(data, &r); err != nil {
				return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
			}
			host, err := Open(t, b, use(r))
			if err != nil {
				return ansible.Result{}, err
			}
			result, err := do(ctx, t, host, r)
			return host.MaskResult(result), host.MaskError(err)
		},
		Settle: func(context.Context, *journey.Run, *journal.Entry) error {
			return fault.New(fault.Internal, "there are no records of this kind")
		},
	}
}

// Settle has the backend remove what the last run for this set left in the repository, if that run did not end as done.
// It returns no error: what the backend cannot remove stays for the next run, and the caller checks next whether the
// repository can be used.
func Settle(ctx context.Context, t *journey.Run, h *Host, client backup.Backend, set string) {
	entries, _ := t.Journal.Entries() // the locking of the set reports a damaged entry
	i := slices.IndexFunc(entries, func(e *journal.Entry) bool { return e.Kind == snapset.Kind && e.Set == set })
	if i >= 0 && entries[i].Outcome != journal.Done {
		t.Extend(QuietLimit(h.use))
		_ = client.Settle(ctx, h.Config())
	}
}
