// Package run makes a backup: it takes a set of snapshots, mounts them at the volumes' own paths in a mount namespace
// of the backend's own, has the backend store them, checks them and removes them. It also asks a backend which backups
// there are.
//
// It promises that no snapshot is taken before the repository is known to be usable; that the set is always removed, by
// this run or by the next run of any module; that a snapshot which overflowed while it was read fails the backup; and
// that a backup counts as made only if the backend also lists it.
package run

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// The kinds of runs. Neither writes journal entries of its own; the set has an entry of package snapset.
const (
	Kind      = "backup"
	KindQuery = "query"
)

// The queries.
const (
	Check = "check" // whether the repository is usable, and how old the last backup is
	List  = "list"  // which backups there are
)

// Request is the request of a backup or a query.
type Request struct {
	Query         string        `json:"query,omitempty"` // Check or List, for KindQuery
	Volumes       []Volume      `json:"volumes"`
	Set           string        `json:"set"`            // the set's name
	Size          string        `json:"size,omitempty"` // the COW space of each snapshot
	FreezeTimeout time.Duration `json:"freeze_timeout"`
	LockTimeout   time.Duration `json:"lock_timeout"`       // how long to wait for other runs
	Keep          int           `json:"keep,omitempty"`     // number of complete backups of the job to keep; 0: all
	ReadAll       bool          `json:"read_all,omitempty"` // read also files that are recorded as unchanged
	Use           Use           `json:"use"`
	Check         bool          `json:"check,omitempty"`     // make no backup, only say what would be done
	AllHosts      bool          `json:"all_hosts,omitempty"` // for List: also the backups of other hosts
}

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

// Handler returns the handler of runs of Kind, which make backups.
func (b Backends) Handler() journey.Handler {
	return recordOutcome(jobs.Kept, handler(b, (*operation).store))
}

// Query returns the handler of runs of KindQuery, which change nothing on the volumes and in the list of backups.
func (b Backends) Query() journey.Handler { return handler(b, (*operation).query) }

// Serve is the main program of a built-in backend; args is its name. It returns the exit code, which is 2 if there is
// no such backend.
func (b Backends) Serve(args []string) int {
	if len(args) != 1 || b[args[0]] == nil {
		return 2
	}
	return plugin.Serve(b[args[0]]())
}

func handler(b Backends, act func(*operation, context.Context) (ansible.Result, error)) journey.Handler {
	use := func(r Request) Use { return r.Use }
	do := func(ctx context.Context, t *journey.Run, h *Host, r Request) (ansible.Result, error) {
		op := &operation{
			Request: r, journeyRun: t, commands: command.NewRecorder(command.Local{}), host: h, begun: time.Now(),
		}
		result, err := act(op, ctx)
		result.Commands = op.commands.Commands()
		return result, err
	}
	return BackendHandler(b, use, do)
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

// operation is one backup or query under way.
type operation struct {
	Request
	journeyRun *journey.Run
	commands   *command.Recorder
	host       *Host
	begun      time.Time
	lacks      []string // warnings about what only some trees have and the repository cannot hold

	recording bool // the backend itself writes the record of what it stores
}

// query answers Check and List. The backend runs in a mount namespace of its own, so nobody else sees what it mounts.
func (op *operation) query(ctx context.Context) (ansible.Result, error) {
	client, err := op.host.StartApart(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer client.Close()
	config := op.host.Config()
	description, err := client.Describe(ctx, config)
	if err != nil {
		return ansible.Result{}, err
	}
	if err := RefuseUnmounted(description, nil); err != nil {
		return ansible.Result{}, err
	}
	var lacks []string
	if op.Query == Check {
		if lacks, err = client.Check(ctx, config); err != nil {
			return ansible.Result{}, err
		}
	}
	host := op.Use.Host
	if op.AllHosts || op.Query == Check { // if this host has no backup, Check names the hosts that have
		host = ""
	}
	list, err := client.List(ctx, config, host)
	if err != nil {
		return ansible.Result{}, err
	}
	result := ansible.Result{Data: map[string]any{
		"backend": op.Use.Backend, "version": description.Version, "features": description.Features, "host": op.Use.Host,
	}}
	if !op.AllHosts {
		host = op.Use.Host
	}
	result.Warnings = append(lacks, FutureWarning(list, host, op.begun)...)
	if op.Query == List {
		result.Data["backups"] = entriesOf(list, op.begun)
		result.Msg, err = op.countMessage(ctx, client, list)
		return result, err
	}
	return op.health(ctx, client, list, result)
}

// countMessage says how many backups are listed. If this host has none, the message names the hosts that have, because
// this host may have been renamed.
func (op *operation) countMessage(ctx context.Context, client backup.Backend, list []backup.Stored) (string, error) {
	if len(list) > 0 || op.AllHosts {
		return fmt.Sprintf("backups: %d", len(list)), nil
	}
	all, err := client.List(ctx, op.host.Config(), "")
	if err != nil {
		return "", err
	}
	backup.NewestFirst(all)
	if others := otherHosts(all, op.Use.Host); len(others) > 0 {
		return noBackupsText(op.Use.Host, others) + "; host=NAME or all_hosts=true lists them", nil
	}
	return fmt.Sprintf("there is no backup of %s, nor of another host", op.Use.Host), nil
}

// checkRepository asks the backend whether a backup could begin now, and returns the warnings of its Check. Before that
// the backend removes what a killed run of this host left. A backend never removes the lock of a run that is alive.
func (op *operation) checkRepository(ctx context.Context, client backup.Backend) ([]string, error) {
	if op.Check {
		return client.Check(ctx, op.host.Config())
	}
	Settle(ctx, op.journeyRun, op.host, client, op.Set)
	warnings, err := client.Check(ctx, op.host.Config())
	if fault.Of(err) == nil || fault.Of(err).Code != fault.RepositoryLocked {
		return warnings, err
	}
	if settleErr := client.Settle(ctx, op.host.Config()); settleErr != nil {
		return nil, err
	}
	return client.Check(ctx, op.host.Config())
}

// Settle has the backend remove what the last run for this set left in the repository, if that run did not end as done.
// It returns no error: what the backend cannot remove stays for the next run, and the caller checks next whether the
// repository can be used.
func Settle(ctx context.Context, t *journey.Run, h *Host, client backup.Backend, set string) {
	entries, _ := t.Journal.Entries() // the locking of the set reports a damaged entry
	i := slices.IndexFunc(entries, func(e *journal.Entry) bool { return e.Kind == snapset.Kind && e.Set == set })
	if i >= 0 && entries[i].Outcome != journal.Done {
		_ = client.Settle(ctx, h.Config())
	}
}

// health says how old the last backup is, after it has presented that backup and listed each of its roots.
func (op *operation) health(
	ctx context.Context, client backup.Backend, list []backup.Stored, r ansible.Result,
) (ansible.Result, error) {
	roots, err := rootsOf(ctx, op.commands, op.Volumes)
	if err != nil {
		return r, err
	}
	last, err := Pick(list, Latest, op.Use.Host, roots, op.begun)
	if err != nil {
		return r, err
	}
	use := func(_ context.Context, p backup.Presented) error { return checkReadable(last, p) }
	err = client.Present(ctx, op.host.Config(), last.ID, op.report("looking into backup "+last.ID), use)
	if err != nil {
		return r, fault.New(fault.Of(err).Code, "the last backup, %s of %s, cannot be read: %w",
			last.ID, last.Time.Format(time.RFC3339), err)
	}
	age := max(0, time.Since(last.Time).Round(time.Second))
	r.Msg = fmt.Sprintf("the repository is usable; the last backup, %s, is %s old", last.ID, age)
	r.Data["last"], r.Data["age_seconds"] = entryOf(last, op.begun), int64(age.Seconds())
	return r, nil
}

// checkReadable lists the directory of every root of a presented backup.
func checkReadable(s backup.Stored, p backup.Presented) error {
	for _, root := range s.Roots {
		dir, ok := p.Roots[root]
		if !ok {
			return fault.New(fault.BackendFailed, "backup %s has no %s, although it lists it", s.ID, root)
		}
		if _, err := os.ReadDir(dir); err != nil {
			return fault.New(fault.BackendFailed, "backup %s: %s: %w", s.ID, root, err)
		}
	}
	return nil
}

// progressInterval is the minimum time between two writings of the progress, extendInterval that between two requests
// to systemd for more time.
const (
	progressInterval = time.Second
	extendInterval   = 10 * time.Second
)

// report returns a function that passes on the backend's progress.
func (op *operation) report(label string) backup.Report { return Report(op.journeyRun, op.host, label) }

// Report returns a function that passes on a backend's progress under the given label, at most once per second. As long
// as the backend reports, the function also extends the time limit of the run's unit, every ten seconds, to twice the
// stall timeout from then.
func Report(t *journey.Run, h *Host, label string) backup.Report {
	var lastTold, lastExtended time.Time
	t.Tell(journey.Progress{Label: label, Percent: -1})
	return func(p backup.Progress) {
		if time.Since(lastExtended) > extendInterval {
			lastExtended = time.Now()
			t.Extend(2 * h.use.Stall)
		}
		if time.Since(lastTold) < progressInterval {
			return
		}
		lastTold = time.Now()
		percent := -1.0
		if p.Total > 0 {
			percent = min(100, 100*float64(p.Done)/float64(p.Total))
		}
		t.Tell(journey.Progress{Label: label, Percent: percent, Bytes: p.Done})
	}
}
