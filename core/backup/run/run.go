// Package run makes a backup: one set of snapshots, mounted in a mount namespace of the backend's own at the original
// paths, stored by the backend, checked, removed. It also asks a backend what it has.
//
// What is promised: nothing is taken before the repository is known to be usable; the set is always removed, here or by
// whatever runs next; a snapshot that overflowed while it was read fails the backup; and a backend's word is not taken
// for it: what it says it stored must be listed.
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

// The kinds of journeys. None has records of its own in the journal: the set's are those of a set that is being taken.
const (
	Kind      = "backup"
	KindQuery = "query"
)

// The queries.
const (
	Check = "check" // is the repository usable, and how old is the last backup
	List  = "list"
)

// Request is what is asked.
type Request struct {
	Query         string        `json:"query,omitempty"` // for KindQuery
	Volumes       []Volume      `json:"volumes"`
	Set           string        `json:"set"`
	Size          string        `json:"size,omitempty"`
	FreezeTimeout time.Duration `json:"freeze_timeout"`
	LockTimeout   time.Duration `json:"lock_timeout"`       // how long it waits for other journeys
	Keep          int           `json:"keep,omitempty"`     // complete backups of the same set and volumes; 0: all
	ReadAll       bool          `json:"read_all,omitempty"` // whatever is recorded of the files
	Use           Use           `json:"use"`
	Check         bool          `json:"check,omitempty"`
	AllHosts      bool          `json:"all_hosts,omitempty"` // of List: other hosts' backups too
}

// Use says which backend, and how.
type Use struct {
	Backend string         `json:"backend"`
	SHA256  string         `json:"sha256,omitempty"` // of its program, in hexadecimal
	Options map[string]any `json:"options,omitempty"`
	Host    string         `json:"host"`  // whose backups
	Stall   time.Duration  `json:"stall"` // a backend that says nothing for so long has failed
}

// Secret is what a request needs beside what may be written down.
type Secret struct {
	Environment map[string]string `json:"environment,omitempty"`
	Hide        []string          `json:"hide,omitempty"` // other secrets that must not be shown: of a password file
}

// Backends are the ones that are built in, by name.
type Backends map[string]func() backup.Backend

// Handler makes journeys of Kind, Query those of KindQuery.
func (b Backends) Handler() journey.Handler { return noted(jobs.Kept, handler(b, (*work).store)) }

// Query answers without changing anything.
func (b Backends) Query() journey.Handler { return handler(b, (*work).query) }

// Serve is the main program of a built-in backend.
func (b Backends) Serve(args []string) int {
	if len(args) != 1 || b[args[0]] == nil {
		return 2
	}
	return plugin.Serve(b[args[0]]())
}

func handler(b Backends, do func(*work, context.Context) (ansible.Result, error)) journey.Handler {
	return Journey(b, func(r Request) Use { return r.Use }, func(ctx context.Context, t *journey.Trip, h *Host, r Request) (ansible.Result, error) {
		w := &work{Request: r, trip: t, commands: command.NewRecorder(command.Local{}), host: h, begun: time.Now()}
		result, err := do(w, ctx)
		result.Commands = w.commands.Commands()
		return result, err
	})
}

// Journey makes journeys with a backend, which a request R names: its secrets are in no answer, for whoever asks for it
// by the run's id knows none that could be hidden then.
func Journey[R any](b Backends, use func(R) Use, do func(context.Context, *journey.Trip, *Host, R) (ansible.Result, error)) journey.Handler {
	return journey.Handler{
		Do: func(ctx context.Context, t *journey.Trip, data json.RawMessage) (ansible.Result, error) {
			var r R
			if err := json.Unmarshal(data, &r); err != nil {
				return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
			}
			host, err := Open(t, b, use(r))
			if err != nil {
				return ansible.Result{}, err
			}
			result, err := do(ctx, t, host, r)
			return host.Cover(result), host.Hide(err)
		},
		Settle: func(context.Context, *journey.Trip, *journal.Entry) error {
			return fault.New(fault.Internal, "there are no records of this kind")
		},
	}
}

// work is one request under way.
type work struct {
	Request
	trip     *journey.Trip
	commands *command.Recorder
	host     *Host
	begun    time.Time
	lacks    []string // what the repository cannot hold and only some trees have

	recording bool // the backend records what it stores itself
}

// query answers Check and List. What the backend mounts for it is seen by no one else.
func (w *work) query(ctx context.Context) (ansible.Result, error) {
	client, err := w.host.StartApart(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer client.Close()
	config := w.host.Config()
	description, err := client.Describe(ctx, config)
	if err != nil {
		return ansible.Result{}, err
	}
	if err := Mounted(description, nil); err != nil {
		return ansible.Result{}, err
	}
	var lacks []string
	if w.Query == Check {
		if lacks, err = client.Check(ctx, config); err != nil {
			return ansible.Result{}, err
		}
	}
	host := w.Use.Host
	if w.AllHosts || w.Query == Check { // a check says whose backups are there, if not this host's
		host = ""
	}
	list, err := client.List(ctx, config, host)
	if err != nil {
		return ansible.Result{}, err
	}
	result := ansible.Result{Data: map[string]any{
		"backend": w.Use.Backend, "version": description.Version, "features": description.Features, "host": w.Use.Host,
	}}
	if !w.AllHosts {
		host = w.Use.Host
	}
	result.Warnings = append(lacks, Ahead(list, host, w.begun)...)
	if w.Query == List {
		result.Data["backups"] = entries(list, w.begun)
		result.Msg, err = w.count(ctx, client, list)
		return result, err
	}
	return w.health(ctx, client, list, result)
}

// count says how many backups are listed. Where there are none of this host, it may have had another name.
func (w *work) count(ctx context.Context, client backup.Backend, list []backup.Stored) (string, error) {
	if len(list) > 0 || w.AllHosts {
		return fmt.Sprintf("backups: %d", len(list)), nil
	}
	all, err := client.List(ctx, w.host.Config(), "")
	if err != nil {
		return "", err
	}
	backup.NewestFirst(all)
	if others := otherHosts(all, w.Use.Host); len(others) > 0 {
		return noneOf(w.Use.Host, others) + "; host=NAME or all_hosts=true lists them", nil
	}
	return fmt.Sprintf("there is no backup of %s, nor of another host", w.Use.Host), nil
}

// usable asks whether a backup could begin now. What a killed run of this host left is put away first: a backend never
// takes away the lock of a run that is alive. The warnings are those of Check.
func (w *work) usable(ctx context.Context, client backup.Backend) ([]string, error) {
	if w.Check {
		return client.Check(ctx, w.host.Config())
	}
	Settle(ctx, w.trip, w.host, client, w.Set)
	warnings, err := client.Check(ctx, w.host.Config())
	if fault.Of(err) == nil || fault.Of(err).Code != fault.RepositoryLocked {
		return warnings, err
	}
	if settled := client.Settle(ctx, w.host.Config()); settled != nil {
		return nil, err
	}
	return client.Check(ctx, w.host.Config())
}

// Settle has the backend put away what the last run for this set left, if that one did not come to its end. What it
// cannot put away stays for the next: whether the repository can be used all the same is asked next.
func Settle(ctx context.Context, t *journey.Trip, h *Host, client backup.Backend, set string) {
	entries, _ := t.Journal.Entries() // a damaged one is reported where it counts
	i := slices.IndexFunc(entries, func(e *journal.Entry) bool { return e.Kind == snapset.Kind && e.Set == set })
	if i >= 0 && entries[i].Outcome != journal.Done {
		_ = client.Settle(ctx, h.Config())
	}
}

// health says how old the last backup is, after a look into it.
func (w *work) health(ctx context.Context, client backup.Backend, list []backup.Stored, r ansible.Result) (ansible.Result, error) {
	roots, err := rootsOf(ctx, w.commands, w.Volumes)
	if err != nil {
		return r, err
	}
	last, err := Pick(list, Latest, w.Use.Host, roots, w.begun)
	if err != nil {
		return r, err
	}
	err = client.Present(ctx, w.host.Config(), last.ID, w.report("looking into backup "+last.ID), func(_ context.Context, p backup.Presented) error {
		return readable(last, p)
	})
	if err != nil {
		return r, fault.New(fault.Of(err).Code, "the last backup, %s of %s, cannot be read: %w", last.ID, last.Time.Format(time.RFC3339), err)
	}
	age := max(0, time.Since(last.Time).Round(time.Second))
	r.Msg = fmt.Sprintf("the repository is usable; the last backup, %s, is %s old", last.ID, age)
	r.Data["last"], r.Data["age_seconds"] = entry(last, w.begun), int64(age.Seconds())
	return r, nil
}

// readable looks into every root of a presented backup.
func readable(s backup.Stored, p backup.Presented) error {
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

// tellEvery and extendEvery bound how often progress is written, and how often systemd is asked for more time.
const (
	tellEvery   = time.Second
	extendEvery = 10 * time.Second
)

// report passes a backend's progress on.
func (w *work) report(label string) backup.Report { return Report(w.trip, w.host, label) }

// Report passes a backend's progress on, under a label, and asks for time as long as it gets on.
func Report(t *journey.Trip, h *Host, label string) backup.Report {
	var told, extended time.Time
	t.Tell(journey.Progress{Label: label, Percent: -1})
	return func(p backup.Progress) {
		if time.Since(extended) > extendEvery {
			extended = time.Now()
			t.Extend(2 * h.use.Stall)
		}
		if time.Since(told) < tellEvery {
			return
		}
		told = time.Now()
		percent := -1.0
		if p.Total > 0 {
			percent = min(100, 100*float64(p.Done)/float64(p.Total))
		}
		t.Tell(journey.Progress{Label: label, Percent: percent, Bytes: p.Done})
	}
}
