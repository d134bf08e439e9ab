// Package restic stores sets in a restic repository, whichever restic of 0.14 or later is installed, and presents them
// through its FUSE mount.
//
// A set is one snapshot of all its roots, so that it is listed whole or not at all. It carries the tags "rewind",
// "set=NAME" and "time=INSTANT". Where files could not be read, a snapshot of its own says so, which no list shows: it
// carries the tag "rewind-incomplete=ID"; until it is known whether they could, a note on this host does. Retention may
// also be restic's own: `restic forget --tag rewind` keeps what its user says.
//
// Every call to restic derives the key from the password with scrypt, which is meant to be slow; so each method makes
// as few calls as it can.
package restic

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Name is what the backend is called.
const Name = "restic"

// Backend is the backend. It is safe for concurrent use.
type Backend struct {
	run command.Streamer

	mu      sync.Mutex
	have    version                    // of the installed restic; zero: not asked yet
	listed  map[string]snapshot        // what List saw last, by ID: Present need not ask again for what was chosen from it
	checked map[string][]backup.Stored // what Check saw last, by repository: Store need not ask again for its number
}

var _ backup.Backend = (*Backend)(nil)

// New returns the backend.
func New() backup.Backend { return &Backend{run: command.Local{}} }

// Describe checks the options and asks restic for its version.
func (b *Backend) Describe(ctx context.Context, c backup.Config) (backup.Description, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Description{}, err
	}
	return backup.Description{Name: Name, Version: t.version.String(), Local: t.local(), Features: t.version.features()}, nil
}

// Check lists the repository's snapshots, with a lock: restic writes one only where none stands in its way, and removes
// it again.
func (b *Backend) Check(ctx context.Context, c backup.Config) ([]string, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	found, err := t.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.checked == nil {
		b.checked = map[string][]backup.Stored{}
	}
	b.checked[t.options.Repository] = backups(found, t.noted())
	return nil, nil
}

// sequence is the number of the next backup of the host. Two runs of one host for different sets may come to the same
// one; then their times tell.
func (b *Backend) sequence(ctx context.Context, t *tool, host string) (int64, error) {
	b.mu.Lock()
	known, ok := b.checked[t.options.Repository]
	delete(b.checked, t.options.Repository) // it holds for one Store
	b.mu.Unlock()
	if ok {
		return backup.NextSequence(known, host), nil
	}
	found, err := t.snapshots(ctx, "--no-lock", "--host", host)
	return backup.NextSequence(backups(found, t.noted()), host), err
}

// List reads the snapshots without a lock: it neither waits for another program nor needs to write.
func (b *Backend) List(ctx context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-lock"}
	if host != "" {
		args = append(args, "--host", host)
	}
	found, err := t.snapshots(ctx, args...)
	if err != nil {
		return nil, err
	}
	b.remember(found)
	return backups(found, t.noted()), nil
}

func (b *Backend) remember(found []snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed = make(map[string]snapshot, len(found))
	for _, s := range found {
		if s.marked() == "" {
			b.listed[s.ID] = s
		}
	}
}

// remembered returns a snapshot that was listed. What has an ID never changes; it may be gone by now.
func (b *Backend) remembered(id string) (snapshot, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.listed[id]
	return s, ok
}

// Forget removes the snapshot; its data goes with the next `restic prune`.
func (b *Backend) Forget(ctx context.Context, c backup.Config, id string) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	s, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	// restic 0.14 ends well where there is nothing to forget: only after find is the answer worth something.
	if _, err := t.call(ctx, "forget the backup "+id, append(t.patient(), "forget", s.ID)...); err != nil {
		return err
	}
	t.forgetOrphans(ctx, s.Host)
	return nil
}

// forgetOrphans removes the marks of snapshots that are gone. One that stays says nothing of any other, so that cannot
// fail.
func (t *tool) forgetOrphans(ctx context.Context, host string) {
	all, err := t.snapshots(ctx, "--no-lock", "--host", host)
	if ids := orphans(all); err == nil && len(ids) > 0 {
		_, _ = t.call(ctx, "forget marks", append(append(t.patient(), "forget"), ids...)...)
	}
}

// Settle removes the locks of programs that are dead (restic calls them stale) and what was laid out to be read, and
// marks what was stored by a run of this host that was killed before it knew whether files are missing.
func (b *Backend) Settle(ctx context.Context, c backup.Config) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	var rooms error
	if t.options.Scratch != "" {
		rooms = backup.SettleRooms(t.options.Scratch)
	}
	_, err = t.call(ctx, "remove stale locks", "unlock")
	if errors.Is(err, fault.RepositoryMissing) {
		err = nil // where there is none, nothing was left in it
	}
	return fault.All(err, t.settleNotes(ctx), rooms)
}

// open reads the options and finds out which restic there is.
func (b *Backend) open(ctx context.Context, c backup.Config) (*tool, error) {
	o, err := read(c)
	if err != nil {
		return nil, err
	}
	v, err := b.version(ctx)
	if err != nil {
		return nil, err
	}
	t := &tool{Streamer: b.run, config: c, options: o, version: v}
	return t, t.useCache()
}

// version asks restic once.
func (b *Backend) version(ctx context.Context) (version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have != (version{}) {
		return b.have, nil
	}
	out, err := b.run.Run(ctx, command.Cmd{Argv: []string{"restic", "version"}})
	if err != nil {
		return version{}, err
	}
	v, err := parseVersion(out.Stdout)
	if err == nil {
		b.have = v
	}
	return v, err
}

// limit bounds the calls that look and do not carry data. An index may have to come from far away.
const limit = 10 * time.Minute
