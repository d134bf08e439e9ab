package restic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Between the moment at which restic has made a snapshot that lacks files, and the one at which that is marked, a kill
// would leave the snapshot listed as complete. So before restic begins a note on this host says which tags the snapshot
// is going to have, until it is known what has become of it.

// notesDir holds a directory with the notes of each repository. That is locked (flock): by many while they store, or by
// one that settles.
var notesDir = journey.State + "/restic"

// notePause is how often it is looked whether whoever settles has ended.
const notePause = 100 * time.Millisecond

// note says that nobody knows whether a snapshot with these tags is complete.
type note struct {
	Host string   `json:"host"`
	Tags []string `json:"tags"`
	path string
}

func (n note) of(s snapshot) bool {
	lacks := func(tag string) bool { return !slices.Contains(s.Tags, tag) }
	return s.Host == n.Host && !slices.ContainsFunc(n.Tags, lacks)
}

// notes is the directory for this repository. Its name may hold a password.
func (t *tool) notes() string { return filepath.Join(notesDir, hash(t.options.Repository)) }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// lockNotes waits until nobody settles, or with LOCK_EX fails with repository_locked while somebody stores.
func (t *tool) lockNotes(ctx context.Context, how int) (*os.File, error) {
	if err := durable.MkdirAll(t.notes(), 0o700); err != nil {
		return nil, unnoted(err)
	}
	dir, err := os.Open(t.notes())
	if err != nil {
		return nil, unnoted(err)
	}
	for {
		err := unix.Flock(int(dir.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			dir.Close()
			return nil, unnoted(err)
		}
		if how == unix.LOCK_EX {
			dir.Close()
			return nil, fault.New(fault.RepositoryLocked, "another run of this host stores in this repository")
		}
		select {
		case <-ctx.Done():
			dir.Close()
			return nil, ctx.Err()
		case <-time.After(notePause):
		}
	}
}

func unnoted(err error) error {
	return fault.New(fault.CommandFailed, "note that a backup is under way: %w", err).
		WithHint("%s must be writable, and its disk not be full", notesDir)
}

// begin writes a note of a tree that is going to be stored. The lock is held until end, which removes the note if it is
// known what became of the snapshot.
func (t *tool) begin(ctx context.Context, tree backup.Tree, sequence int64) (end func(known bool) error, err error) {
	dir, err := t.lockNotes(ctx, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	n := note{Host: tree.Host, Tags: tags(tree, sequence)}
	data, err := json.Marshal(n)
	n.path = filepath.Join(t.notes(), hash(string(data))+".json")
	if err == nil {
		err = durable.WriteFile(n.path, data, 0o600)
	}
	if err != nil {
		backup.Unlock(dir)
		return nil, unnoted(err)
	}
	return func(known bool) error {
		defer backup.Unlock(dir)
		if !known {
			return nil
		}
		if err := durable.Remove(n.path); err != nil {
			return unnoted(err)
		}
		return nil
	}, nil
}

// noted returns the notes. What cannot be read is none: it was written whole, or not at all.
func (t *tool) noted() []note {
	paths, _ := filepath.Glob(filepath.Join(t.notes(), "*.json")) // a hash has nothing that means something there
	var all []note
	for _, path := range paths {
		n := note{path: path}
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &n) == nil {
			all = append(all, n)
		}
	}
	return all
}

// settleNotes marks the snapshots of runs that were killed before it was known what they lack, and removes the notes.
func (t *tool) settleNotes(ctx context.Context) error {
	if len(t.noted()) == 0 {
		return nil
	}
	dir, err := t.lockNotes(ctx, unix.LOCK_EX)
	if errors.Is(err, fault.RepositoryLocked) {
		return nil // that run is alive
	}
	if err != nil {
		return err
	}
	defer backup.Unlock(dir)
	found, err := t.snapshots(ctx, "--no-lock")
	if errors.Is(err, fault.RepositoryMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	complete := backups(found, nil)
	var wrong []error
	for _, n := range t.noted() {
		wrong = append(wrong, t.settleNote(ctx, n, found, complete))
	}
	return fault.All(wrong...)
}

func (t *tool) settleNote(ctx context.Context, n note, found []snapshot, listed []backup.Stored) error {
	for _, s := range found {
		marked := func(one backup.Stored) bool { return one.ID == s.ID && one.Incomplete }
		if !n.of(s) || slices.ContainsFunc(listed, marked) {
			continue
		}
		if err := t.addMark(ctx, s.Host, s.ID, func(backup.Progress) {}); err != nil {
			return err
		}
	}
	if err := durable.Remove(n.path); err != nil {
		return unnoted(err)
	}
	return nil
}
