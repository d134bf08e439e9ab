package restic

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// tagMark begins the tag of a mark. A mark is a snapshot which says that files are missing in another snapshot, whose
// ID follows in the tag.
//
// The other snapshot itself cannot be tagged, because that takes an exclusive lock, which nobody gets while any host
// stores or reads in this repository. Adding a snapshot takes only the lock that storing takes. A mark has not the tag
// "rewind", so `restic forget --tag rewind` leaves it alone. It has a path that no other snapshot has, so a `restic
// forget` that keeps some snapshots of each path keeps it, too.
const tagMark = "rewind-incomplete="

const (
	markLimit         = 10 * time.Minute // how long mark waits for a lock that is in the way
	markRetryInterval = time.Second
)

// mark adds the mark of a snapshot. It does so even if ctx has ended, because without the mark the snapshot would be
// taken for complete. But then it waits for no lock.
func (t *tool) mark(ctx context.Context, host, id string, report backup.Report) error {
	timeout := time.After(markLimit)
	for {
		err := t.addMark(context.WithoutCancel(ctx), host, id, report)
		if err == nil {
			return nil
		}
		markErr := fault.New(fault.Of(err).Code,
			"files are missing in backup %s, and it could not be marked: other hosts list it as complete: %w", id, err).
			WithHint("take it out of the list: `restic forget %s`", id)
		if !errors.Is(err, fault.RepositoryLocked) {
			return markErr
		}
		select {
		case <-ctx.Done():
			return markErr
		case <-timeout:
			return markErr
		case <-time.After(markRetryInterval):
		}
	}
}

func (t *tool) addMark(ctx context.Context, host, id string, report backup.Report) error {
	progress := backup.Progress{Label: "marking the backup as incomplete"}
	report(progress)
	cmd := t.cmd("--quiet", "backup", "--host", host, "--tag", tagMark+id, "--stdin", "--stdin-filename",
		"rewind-incomplete-"+id)
	// not empty, because restic would not store an empty stdin
	cmd.Stdin = []byte("Files are missing in the snapshot " + id + ".\n")
	_, err := t.Stream(ctx, cmd, func(string) { report(progress) })
	return t.explain("mark the backup as incomplete", err)
}

// markedID returns the ID, or its first digits, of the snapshot that is marked by this one. It returns "" if this
// snapshot is not a mark.
func (s snapshot) markedID() string {
	for _, tag := range s.Tags {
		if id, is := strings.CutPrefix(tag, tagMark); is && idPattern.MatchString(id) {
			return id
		}
	}
	return ""
}

// hasID reports whether this snapshot has an ID that begins with id, or was made by restic of one that had. After
// `restic rewrite` only the last ID before is known; the snapshot then counts as damaged, with or without its mark.
func (s snapshot) hasID(id string) bool {
	return strings.HasPrefix(s.ID, id) || strings.HasPrefix(s.Original, id)
}

// markedIDs returns the IDs of the snapshots that are marked, or their first digits.
func markedIDs(all []snapshot) (ids []string) {
	for _, s := range all {
		if id := s.markedID(); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// backups returns the backups among the snapshots, the latest first. Marks are left out. A backup is incomplete if
// there is a mark or a note for it, or if restic has changed it since and trees, which this host has kept, do not show
// that it has the same files.
func backups(all []snapshot, notes []note, trees map[string]string) []backup.Stored {
	marked := markedIDs(all)
	list := make([]backup.Stored, 0, len(all)-len(marked))
	for _, s := range all {
		if s.markedID() != "" {
			continue
		}
		one := s.toStored()
		noted := func(n note) bool { return n.describes(s) }
		one.Incomplete = slices.ContainsFunc(marked, s.hasID) || slices.ContainsFunc(notes, noted)
		if why := s.whyDamaged(trees); why != "" && !one.Incomplete {
			one.Incomplete, one.Damaged = true, why
		}
		list = append(list, one)
	}
	slices.SortStableFunc(list, func(a, b backup.Stored) int { return b.Time.Compare(a.Time) })
	return list
}

// orphanedMarks returns the IDs of the marks whose snapshots no longer exist.
func orphanedMarks(all []snapshot) []string {
	var ids []string
	for _, mark := range all {
		id := mark.markedID()
		if id != "" && !slices.ContainsFunc(all, func(s snapshot) bool { return s.hasID(id) }) {
			ids = append(ids, mark.ID)
		}
	}
	return ids
}
