// Package restic is the backend that stores sets in a restic repository, and presents them through a FUSE mount of it.
// It works with every restic since 0.14.
//
// In this package a snapshot is one of restic, not of LVM. A backup is one snapshot of all roots, so that it is listed
// whole or not at all. It has the tags "rewind", "set=NAME", "time=INSTANT", "sequence=NUMBER" and "machine=HASH". If
// files could not be read, a second snapshot, the mark, says so: it has the tag "rewind-incomplete=ID" and is not a
// backup in the list. While it is not known whether all files could be read, a note on this host says so. Users may
// also remove backups by restic itself: `restic forget --tag rewind` with its own options keeps what these say.
//
// Every call of restic derives the key from the password with scrypt, which is slow on purpose. So each method makes as
// few calls as it can.
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

// Name is the name of the backend.
const Name = "restic"

// Backend is the restic backend. It is safe for concurrent use.
type Backend struct {
	run command.Streamer

	mu        sync.Mutex
	installed installed                  // zero: not asked yet
	listed    map[string]snapshot        // what List found last, by ID, so that Present need not ask restic again
	checked   map[string][]backup.Stored // what Check found last, by repository, so that Store need not ask restic again
}

var _ backup.Backend = (*Backend)(nil)

// New returns the restic backend.
func New() backup.Backend { return &Backend{run: command.Local{}} }

// Describe checks the options and asks restic for its version.
func (b *Backend) Describe(ctx context.Context, c backup.Config) (backup.Description, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Description{}, err
	}
	return backup.Description{Name: Name, Version: t.version.String(), Local: t.localPaths(),
		Features: t.features()}, nil
}

// Check lists the repository's snapshots with a lock. So it fails if the repository cannot be written, or if another
// program's lock is in the way. restic removes its lock again.
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
	b.checked[t.options.Repository] = backups(found, nil, nil) // for the sequence numbers alone
	return nil, nil
}

// nextSequence returns the sequence number of the next backup of the host. Two runs of one host for different sets may
// get the same number; then their times give the order.
func (b *Backend) nextSequence(ctx context.Context, t *tool, host string) (int64, error) {
	b.mu.Lock()
	checked, ok := b.checked[t.options.Repository]
	delete(b.checked, t.options.Repository) // it is right for one Store only
	b.mu.Unlock()
	if ok {
		return backup.NextSequence(checked, host), nil
	}
	found, err := t.snapshots(ctx, "--no-lock", "--host", host)
	return backup.NextSequence(backups(found, nil, nil), host), err
}

// List lists the snapshots without a lock, so it neither waits for another program nor needs to write.
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
	b.rememberListed(found)
	t.notes().keepTrees(found)
	return backups(found, t.notes().read(), keptTrees()), nil
}

func (b *Backend) rememberListed(found []snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed = make(map[string]snapshot, len(found))
	for _, s := range found {
		if s.markedID() == "" {
			b.listed[s.ID] = s
		}
	}
}

// remembered returns a snapshot that List has found. A snapshot never changes, since its ID is a hash of its content;
// but it may have been removed since.
func (b *Backend) remembered(id string) (snapshot, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.listed[id]
	return s, ok
}

// Forget removes the snapshot. Its data is removed by the next `restic prune`.
func (b *Backend) Forget(ctx context.Context, c backup.Config, id string) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	s, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	// restic 0.14 also succeeds if there is no such snapshot, so find has to look for it first.
	if _, err := t.call(ctx, "forget the backup "+id, append(t.version.retryLockArgs(), "forget", s.ID)...); err != nil {
		return err
	}
	t.forgetOrphanedMarks(ctx, s.Host)
	return nil
}

// forgetOrphanedMarks removes the marks of snapshots that are gone. It ignores errors, because a mark that stays does
// no harm to other snapshots.
func (t *tool) forgetOrphanedMarks(ctx context.Context, host string) {
	all, err := t.snapshots(ctx, "--no-lock", "--host", host)
	if ids := orphanedMarks(all); err == nil && len(ids) > 0 {
		_, _ = t.call(ctx, "forget marks", append(append(t.version.retryLockArgs(), "forget"), ids...)...)
	}
}

// Settle removes the locks of processes of this host that have ended (restic calls them stale), and what was restored
// into scratch to be read. It also marks the snapshots of runs of this host that were killed before they knew whether
// files are missing.
func (b *Backend) Settle(ctx context.Context, c backup.Config) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	var roomsErr error
	if t.options.Scratch != "" {
		roomsErr = backup.SettleRooms(t.options.Scratch)
	}
	err = t.settleLocks(ctx)
	if errors.Is(err, fault.RepositoryMissing) {
		err = nil // if there is no repository, nothing was left in it
	}
	return fault.All(err, t.settleNotes(ctx), roomsErr)
}

// open decodes the options and finds out which restic is installed.
func (b *Backend) open(ctx context.Context, c backup.Config) (*tool, error) {
	o, err := parseOptions(c)
	if err != nil {
		return nil, err
	}
	i, err := b.askInstalled(ctx)
	if err != nil {
		return nil, err
	}
	t := &tool{config: c, options: o, installed: i}
	t.Streamer = notingProcesses{b.run, t.notes()}
	return t, t.useCache()
}

// callLimit limits the calls that copy no data. It is long because an index may have to be fetched from far away.
const callLimit = 10 * time.Minute
