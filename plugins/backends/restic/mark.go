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

// tagMark begins the tag of a mark: a snapshot that says that files are missing in another, whose ID follows.
//
// Tagging that other one would take an exclusive lock, for which there is no chance while any host stores or reads in
// this repository. To add a snapshot takes the lock that storing takes. It is told from backups by the tag "rewind",
// which it lacks, so `restic forget --tag rewind` leaves it alone; and it has a path of its own, so one that keeps some
// of each path keeps it.
const tagMark = "rewind-incomplete="

const (
	markLimit = 10 * time.Minute // how long a lock that is in the way is waited for
	markPause = time.Second
)

// mark adds the mark of a snapshot. It does so also when ctx has ended, for the snapshot would be taken for complete
// without it; but then no lock is waited for.
func (t *tool) mark(ctx context.Context, host, id string, report backup.Report) error {
	late := time.After(markLimit)
	for {
		err := t.addMark(context.WithoutCancel(ctx), host, id, report)
		if err == nil {
			return nil
		}
		failed := fault.New(fault.Of(err).Code,
			"files are missing in backup %s, and it could not be marked: other hosts list it as complete: %w", id, err).
			WithHint("take it out of the list: `restic forget %s`", id)
		if !errors.Is(err, fault.RepositoryLocked) {
			return failed
		}
		select {
		case <-ctx.Done():
			return failed
		case <-late:
			return failed
		case <-time.After(markPause):
		}
	}
}

func (t *tool) addMark(ctx context.Context, host, id string, report backup.Report) error {
	progress := backup.Progress{Label: "marking the backup as incomplete"}
	report(progress)
	cmd := t.cmd("--quiet", "backup", "--host", host, "--tag", tagMark+id, "--stdin", "--stdin-filename", "rewind-incomplete-"+id)
	cmd.Stdin = []byte("Files are missing in the snapshot " + id + ".\n") // restic stores nothing that is empty
	_, err := t.Stream(ctx, cmd, func(string) { report(progress) })
	return t.explain("mark the backup as incomplete", err)
}

// marked returns the ID, or its first digits, of the snapshot that this one marks; "" for one that is no mark.
func (s snapshot) marked() string {
	for _, tag := range s.Tags {
		if id, is := strings.CutPrefix(tag, tagMark); is && wholeOrPartOfID.MatchString(id) {
			return id
		}
	}
	return ""
}

// is says whether an ID, or its first digits, is this snapshot's, or was until somebody changed its tags.
func (s snapshot) is(id string) bool {
	return strings.HasPrefix(s.ID, id) || strings.HasPrefix(s.Original, id)
}

// backups returns what the snapshots are, the newest first, without the marks.
func backups(all []snapshot, notes []note) []backup.Stored {
	var marked []string
	for _, s := range all {
		if id := s.marked(); id != "" {
			marked = append(marked, id)
		}
	}
	list := make([]backup.Stored, 0, len(all)-len(marked))
	for _, s := range all {
		if s.marked() != "" {
			continue
		}
		one := s.stored()
		noted := func(n note) bool { return n.of(s) }
		one.Incomplete = slices.ContainsFunc(marked, s.is) || slices.ContainsFunc(notes, noted)
		list = append(list, one)
	}
	slices.SortStableFunc(list, func(a, b backup.Stored) int { return b.Time.Compare(a.Time) })
	return list
}

// orphans returns the IDs of the marks whose snapshots are gone.
func orphans(all []snapshot) []string {
	var ids []string
	for _, mark := range all {
		id := mark.marked()
		if id != "" && !slices.ContainsFunc(all, func(s snapshot) bool { return s.is(id) }) {
			ids = append(ids, mark.ID)
		}
	}
	return ids
}
