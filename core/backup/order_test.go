package backup_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func storedAt(id string, sequence int64, after time.Duration) backup.Stored {
	return backup.Stored{ID: id, Host: "web", Sequence: sequence, Time: noon.Add(after)}
}

// The clock is a year ahead at the second backup, and a year behind at the fourth. A backup that an earlier version or
// another program stored has no number.
func TestNewestFirstDoesNotTrustTheClock(t *testing.T) {
	const year = 365 * 24 * time.Hour
	inOrder := []backup.Stored{
		storedAt("fifth", 5, 4*time.Hour), storedAt("fourth", 4, -year), storedAt("third", 3, 2*time.Hour),
		storedAt("second", 2, year), storedAt("first", 1, 0),
	}
	unnumberedLast := []backup.Stored{
		storedAt("third", 3, 2*time.Hour), storedAt("second", 2, year), storedAt("first", 1, time.Hour),
		storedAt("unnumbered", 0, 0),
	}
	for name, inOrder := range map[string][]backup.Stored{
		"ahead and behind":      inOrder,
		"of an earlier version": unnumberedLast,
		"of one instant":        {storedAt("second", 2, 0), storedAt("first", 1, 0)},
		"of two hosts":          {{ID: "b", Host: "mail", Sequence: 1, Time: noon.Add(time.Hour)}, storedAt("a", 7, 0)},
		"nothing":               {},
	} {
		for range 20 {
			got := slices.Clone(inOrder)
			rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
			backup.NewestFirst(got)
			if !slices.EqualFunc(got, inOrder, func(a, b backup.Stored) bool { return a.ID == b.ID }) {
				t.Errorf("%s: %v, want %v", name, got, inOrder)
			}
		}
	}
}

func TestNextSequenceCountsPerHost(t *testing.T) {
	list := []backup.Stored{
		storedAt("a", 3, 0), storedAt("b", 0, time.Hour),
		{ID: "c", Host: "mail", Sequence: 9, Time: noon},
	}
	for host, want := range map[string]int64{"web": 4, "mail": 10, "new": 1} {
		if got := backup.NextSequence(list, host); got != want {
			t.Errorf("%s: %d, want %d", host, got, want)
		}
	}
}

// The clocks of two servers differ by seconds, so a backup made a moment ago must not count as in the future.
func TestFutureAllowsClockDifference(t *testing.T) {
	future := map[time.Duration]bool{-time.Hour: false, 0: false, 30 * time.Second: false, 2 * time.Minute: true}
	for after, want := range future {
		if got := storedAt("a", 1, after).Future(noon); got != want {
			t.Errorf("%v later than now: %v", after, got)
		}
	}
}
