package backup

import (
	"cmp"
	"slices"
	"time"
)

// clockSlack is by how much a backup may be dated later than the clock that looks at it: the clocks of two servers
// differ, and one that is corrected goes back.
const clockSlack = time.Minute

// Future reports whether the backup is dated later than now: the clock ran ahead when it was made, or is behind now.
// Then its time does not tell how old it is.
func (s Stored) Future(now time.Time) bool { return s.Time.After(now.Add(clockSlack)) }

// NextSequence is the number of the next backup of the host.
func NextSequence(list []Stored, host string) int64 {
	var last int64
	for _, s := range list {
		if s.Host == host {
			last = max(last, s.Sequence)
		}
	}
	return last + 1
}

// NewestFirst sorts backups by when they were made, the last one first. Of one host's the sequence tells that, whatever
// the clock was. A backup without a number, and that of another host, has nothing but its time; it is held against a
// numbered one by the earliest time of that and all that were made after it, for it was not made later than they.
func NewestFirst(list []Stored) {
	at := made(list)
	slices.SortStableFunc(list, func(a, b Stored) int {
		return cmp.Or(at[b.ID].Compare(at[a.ID]), cmp.Compare(b.Sequence, a.Sequence), cmp.Compare(b.ID, a.ID))
	})
}

// made says of each backup, by its ID, at what time it was made at the latest.
func made(list []Stored) map[string]time.Time {
	lastFirst := slices.Clone(list)
	slices.SortFunc(lastFirst, func(a, b Stored) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(b.Sequence, a.Sequence), b.Time.Compare(a.Time))
	})
	at := make(map[string]time.Time, len(list))
	for i, s := range lastFirst {
		at[s.ID] = s.Time
		if s.Sequence == 0 || i == 0 || lastFirst[i-1].Host != s.Host {
			continue
		}
		if later := at[lastFirst[i-1].ID]; later.Before(s.Time) {
			at[s.ID] = later
		}
	}
	return at
}
