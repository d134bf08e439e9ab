package backup

import (
	"cmp"
	"slices"
	"time"
)

// clockSlack is how much later than now a backup may be dated without being in the future: the clocks of two servers
// differ, and a clock that is corrected may go back.
const clockSlack = time.Minute

// Future reports whether the backup is dated more than a minute later than now. Then the clock ran ahead when the
// backup was made, or is behind now, and the backup's time does not tell how old it is.
func (s Stored) Future(now time.Time) bool { return s.Time.After(now.Add(clockSlack)) }

// NextSequence returns the number of the next backup of the host. list must contain all its backups. The number of a
// damaged backup may not be known. Then it may be the last one, and is left free.
func NextSequence(list []Stored, host string) int64 {
	var last, unknown int64
	for _, s := range list {
		if s.Host != host {
			continue
		}
		last = max(last, s.Sequence)
		if s.Sequence == 0 && s.Damaged != "" {
			unknown++
		}
	}
	return last + unknown + 1
}

// NewestFirst sorts backups in place by when they were made, the latest first. Among the backups of one host Sequence
// tells the order, whatever the clock said. A backup without a number, or of another host, has only its time. To
// compare it with a numbered backup, the numbered one counts as made at the earliest time among itself and all later
// backups of its host, because it was not made after any of these.
func NewestFirst(list []Stored) {
	latest := latestTimes(list)
	slices.SortStableFunc(list, func(a, b Stored) int {
		return cmp.Or(latest[b.ID].Compare(latest[a.ID]), cmp.Compare(b.Sequence, a.Sequence), cmp.Compare(b.ID, a.ID))
	})
}

// latestTimes returns, by ID, the latest time at which each backup can have been made.
func latestTimes(list []Stored) map[string]time.Time {
	newestFirst := slices.Clone(list)
	slices.SortFunc(newestFirst, func(a, b Stored) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(b.Sequence, a.Sequence), b.Time.Compare(a.Time))
	})
	latest := make(map[string]time.Time, len(list))
	for i, s := range newestFirst {
		latest[s.ID] = s.Time
		if s.Sequence == 0 || i == 0 || newestFirst[i-1].Host != s.Host {
			continue
		}
		if later := latest[newestFirst[i-1].ID]; later.Before(s.Time) {
			latest[s.ID] = later
		}
	}
	return latest
}
