package run

import (
	"slices"
	"time"

	"go.pcc.com/rewind/core/backup"
)

// Entry is a backup as it appears in a result.
type Entry struct {
	ID       string   `json:"id"`
	Host     string   `json:"host"`
	Set      string   `json:"name,omitempty"`
	Time     string   `json:"time"` // RFC 3339
	Volumes  []string `json:"volumes"`
	Complete bool     `json:"complete"`
	Files    int64    `json:"files,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`
	Future   bool     `json:"dated_in_future,omitempty"` // Time is later than now, so the backup's age is not known
}

func entryOf(s backup.Stored, now time.Time) Entry {
	return Entry{
		s.ID, s.Host, s.Set, s.Time.UTC().Format(time.RFC3339), s.Roots, !s.Incomplete, s.Files, s.Bytes, s.Future(now),
	}
}

// entriesOf returns all backups of the list, the newest first.
func entriesOf(list []backup.Stored, now time.Time) []Entry {
	list = slices.Clone(list)
	backup.NewestFirst(list)
	out := []Entry{}
	for _, s := range list {
		out = append(out, entryOf(s, now))
	}
	return out
}
