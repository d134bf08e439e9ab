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

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lock"
)

// If the run is killed after restic has made a snapshot that lacks files, and before the snapshot is marked, the
// snapshot would be listed as complete. So before restic begins, a note is written on this host with the tags that the
// snapshot is going to have. It is removed when it is known whether the snapshot is complete.

// notesDir has a directory for each repository, which holds the notes. That directory is locked (flock): shared by runs
// that store, exclusively by a run that settles.
var notesDir = journey.StateDir + "/restic"

// note says that it is not known whether the snapshot of this host with these tags is complete.
type note struct {
	Host string   `json:"host"`
	Tags []string `json:"tags"`
	path string   // of the note's file
}

// describes reports whether the note is about the snapshot.
func (n note) describes(s snapshot) bool {
	lacks := func(tag string) bool { return !slices.Contains(s.Tags, tag) }
	return s.Host == n.Host && !slices.ContainsFunc(n.Tags, lacks)
}

// notes is the directory of the notes of one repository. Its name is a hash, because the repository's name may contain
// a password.
type notes string

func (t *tool) notes() notes { return notes(filepath.Join(notesDir, hash(t.options.Repository))) }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// share locks the notes for a run that stores. It waits until no other run settles.
func (dir notes) share(ctx context.Context) (*lock.Lock, error) {
	if err := durable.MkdirAll(string(dir), 0o700); err != nil {
		return nil, noteError(err)
	}
	l, err := lock.Wait(ctx, string(dir), lock.Shared)
	if err != nil && ctx.Err() == nil {
		return nil, noteError(err)
	}
	return l, err
}

// claim locks the notes for a run that settles. Fault: repository_locked if another run stores.
func (dir notes) claim() (*lock.Lock, error) {
	l, err := lock.Exclusive(string(dir))
	if errors.Is(err, lock.ErrHeld) {
		return nil, fault.New(fault.RepositoryLocked, "another run of this host stores in this repository")
	}
	if err != nil {
		return nil, noteError(err)
	}
	return l, nil
}

// noteError returns the fault for an error of writing or removing a note.
func noteError(err error) error {
	return fault.New(fault.CommandFailed, "note that a backup is under way: %w", err).
		WithHint("%s must be writable, and its disk not be full", notesDir)
}

// write writes a note of a snapshot that is going to be made. It holds the lock until end is called. end removes the
// note if known is true, which means that it is known whether the snapshot is complete.
func (dir notes) write(ctx context.Context, n note) (end func(known bool) error, err error) {
	l, err := dir.share(ctx)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(n)
	n.path = filepath.Join(string(dir), hash(string(data))+".json")
	if err == nil {
		err = durable.WriteFile(n.path, data, 0o600)
	}
	if err != nil {
		l.Release()
		return nil, noteError(err)
	}
	return func(known bool) error {
		defer l.Release()
		if !known {
			return nil
		}
		if err := durable.Remove(n.path); err != nil {
			return noteError(err)
		}
		return nil
	}, nil
}

// read returns the notes. A file that cannot be parsed is no note, because notes are written whole or not at all.
func (dir notes) read() []note {
	// a hash contains no character that is special in a pattern
	paths, _ := filepath.Glob(filepath.Join(string(dir), "*.json"))
	var all []note
	for _, path := range paths {
		n := note{path: path}
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &n) == nil {
			all = append(all, n)
		}
	}
	return all
}

// settleNotes marks the snapshots of runs that were killed before they knew whether files are missing, and removes the
// notes.
func (t *tool) settleNotes(ctx context.Context) error {
	if len(t.notes().read()) == 0 {
		return nil
	}
	l, err := t.notes().claim()
	if errors.Is(err, fault.RepositoryLocked) {
		return nil // the run that has written a note may be alive
	}
	if err != nil {
		return err
	}
	defer l.Release()
	found, err := t.snapshots(ctx, "--no-lock")
	if errors.Is(err, fault.RepositoryMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	marked := markedIDs(found)
	var wrong []error
	for _, n := range t.notes().read() {
		wrong = append(wrong, t.settleNote(ctx, n, found, marked))
	}
	return fault.All(wrong...)
}

func (t *tool) settleNote(ctx context.Context, n note, found []snapshot, marked []string) error {
	for _, s := range found {
		if !n.describes(s) || slices.ContainsFunc(marked, s.hasID) {
			continue
		}
		if err := t.addMark(ctx, s.Host, s.ID, func(backup.Progress) {}); err != nil {
			return err
		}
	}
	if err := durable.Remove(n.path); err != nil {
		return noteError(err)
	}
	return nil
}
