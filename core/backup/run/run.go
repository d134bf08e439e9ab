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
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lock"
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
	Query         string          `json:"query,omitempty"` // Check or List, for KindQuery
	Volumes       []access.Volume `json:"volumes"`
	Set           string          `json:"set"`            // the set's name
	Size          string          `json:"size,omitempty"` // the COW space of each snapshot
	FreezeTimeout time.Duration   `json:"freeze_timeout"`
	LockTimeout   time.Duration   `json:"lock_timeout"`       // how long to wait for other runs
	Keep          int             `json:"keep,omitempty"`     // number of complete backups of the job to keep; 0: all
	ReadAll       bool            `json:"read_all,omitempty"` // read also files that are recorded as unchanged
	Use           access.Use      `json:"use"`
	Check         bool            `json:"check,omitempty"`     // make no backup, only say what would be done
	AllHosts      bool            `json:"all_hosts,omitempty"` // for List: also the backups of other hosts
}

// Handler returns the handler of runs of Kind, which make backups.
func Handler(b access.Backends) journey.Handler {
	return recordOutcome(jobs.Kept, handler(b, (*operation).store))
}

// QueryHandler returns the handler of runs of KindQuery, which change nothing on the volumes and in the list of
// backups.
func QueryHandler(b access.Backends) journey.Handler { return handler(b, (*operation).query) }

func handler(b access.Backends, act func(*operation, context.Context) (ansible.Result, error)) journey.Handler {
	use := func(r Request) access.Use { return r.Use }
	do := func(ctx context.Context, t *journey.Run, h *access.Host, r Request) (ansible.Result, error) {
		op := &operation{
			Request: r, journeyRun: t, commands: command.NewRecorder(command.Local{}), host: h, begun: time.Now(),
		}
		defer op.unlockPlace()
		result, err := act(op, ctx)
		result.Commands = op.commands.Commands()
		return result, err
	}
	return access.BackendHandler(b, use, do)
}

// operation is one backup or query under way.
type operation struct {
	Request
	journeyRun *journey.Run
	commands   *command.Recorder
	host       *access.Host
	begun      time.Time
	waited     time.Duration // for other runs in the same repository
	warnings   []string      // about what the repository cannot hold, and about what is not in the backup

	recording bool // the backend itself writes the record of what it stores

	placeHeld *lock.Lock // see lockPlace; nil: not locked
}

// query answers Check and List. The backend runs in a mount namespace of its own, so nobody else sees what it mounts.
func (op *operation) query(ctx context.Context) (ansible.Result, error) {
	client, err := op.host.StartApart(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer client.Close()
	config := op.host.Config()
	config.Machine = "" // a query changes no backups, so that every server may make it
	description, err := client.Describe(ctx, config)
	if err != nil {
		return ansible.Result{}, err
	}
	if err := access.RefuseUnmounted(description, nil); err != nil {
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
	result.Warnings = slices.Concat(lacks, access.FutureWarning(list, host, op.begun), access.DamagedWarnings(list, host))
	if op.Query == List {
		result.Data["backups"] = entriesOf(list, op.begun)
		if err := op.emptied(jobs.Kept.GoodAt(op.job()), list); err != nil && !op.AllHosts {
			result.Warnings = append(result.Warnings, err.Error())
		}
		result.Msg, err = op.countMessage(ctx, client, config, list)
		return result, err
	}
	return op.health(ctx, client, list, result)
}

// countMessage says how many backups are listed. If this host has none, the message names the hosts that have, because
// this host may have been renamed.
func (op *operation) countMessage(
	ctx context.Context, client backup.Backend, config backup.Config, list []backup.Stored,
) (string, error) {
	if len(list) > 0 || op.AllHosts {
		return fmt.Sprintf("backups: %d", len(list)), nil
	}
	all, err := client.List(ctx, config, "")
	if err != nil {
		return "", err
	}
	backup.NewestFirst(all)
	if others := access.OtherHosts(all, op.Use.Host); len(others) > 0 {
		return access.NoBackupsText(op.Use.Host, others) + "; host=NAME or all_hosts=true lists them", nil
	}
	return fmt.Sprintf("there is no backup of %s, nor of another host", op.Use.Host), nil
}

// checkRepository finds out whether a backup could begin now, and returns the warnings of the backend's Check.
func (op *operation) checkRepository(ctx context.Context, client backup.Backend) ([]string, error) {
	warnings, err := op.askRepository(ctx, client)
	if err == nil {
		err = op.refuseEmptied(ctx, jobs.Kept, client, op.host.Config())
	}
	return warnings, err
}

// askRepository asks the backend whether a backup could begin now, and returns the warnings of its Check. Before that
// the backend removes what a killed run of this host left. Unless this is a check, it waits for other runs.
func (op *operation) askRepository(ctx context.Context, client backup.Backend) ([]string, error) {
	if op.Check {
		return client.Check(ctx, op.host.Config())
	}
	access.Settle(ctx, op.journeyRun, op.host, client, op.Set)
	return op.waitForRepository(ctx, client, op.host.Config(), func(p backup.Progress) {
		op.journeyRun.Extend(access.QuietLimit(op.Use)) // the wait takes none of the time for the backup
		op.journeyRun.Progress(op.host.MaskText(p.Label), -1)
	})
}

// repositoryPause is the time between two questions whether the repository is still locked. Tests shorten it.
var repositoryPause = 20 * time.Second

// waitForRepository locks the place of the backup and asks the backend whether a backup could begin now. While another
// run has the lock of the place, or the repository is locked, it tries again, until LockTimeout is over. Each time the
// backend may remove what killed runs of this host left; a backend never removes the lock of a run that is alive.
func (op *operation) waitForRepository(
	ctx context.Context, client backup.Backend, config backup.Config, report backup.Report,
) (warnings []string, err error) {
	ask := func() error {
		if err := op.lockPlace(); err != nil {
			return err
		}
		warnings, err = client.Check(ctx, config)
		if !errors.Is(err, fault.RepositoryLocked) || client.Settle(ctx, config) != nil {
			return err
		}
		warnings, err = client.Check(ctx, config)
		return err
	}
	begun := time.Now()
	err = backup.WaitWhileLocked(ctx, op.LockTimeout, repositoryPause, report, ask)
	op.waited = time.Since(begun)
	return warnings, err
}

// health says how old the last backup is, after it has presented that backup and listed each of its roots.
func (op *operation) health(
	ctx context.Context, client backup.Backend, list []backup.Stored, r ansible.Result,
) (ansible.Result, error) {
	if err := op.emptied(jobs.Kept.GoodAt(op.job()), list); err != nil {
		return r, err
	}
	roots, err := access.RootsOf(ctx, op.commands, op.Volumes)
	if err != nil {
		return r, err
	}
	last, err := access.Pick(list, access.Latest, op.Use.Host, roots, op.begun)
	if err != nil {
		return r, err
	}
	use := func(_ context.Context, p backup.Presented) error { return checkReadable(last, p) }
	err = client.Present(ctx, op.host.Config(), last.ID, op.report("looking into backup "+last.ID), use)
	if err != nil {
		return r, fault.New(fault.Of(err).Code, "the last backup, %s of %s, cannot be read: %w",
			last.ID, last.Time.Format(time.RFC3339), err)
	}
	age := int64(max(0, time.Since(last.Time)).Seconds())
	r.Msg = fmt.Sprintf("the repository is usable; the last backup, %s, is %s old", last.ID, ansible.Age(age))
	r.Data["last"], r.Data["age_seconds"] = entryOf(last, op.begun), age
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

// report returns a function that passes on the backend's progress.
func (op *operation) report(label string) backup.Report {
	return access.Report(op.journeyRun, op.host, label)
}
