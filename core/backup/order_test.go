package backup_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func made(id string, sequence int64, after time.Duration) backup.Stored {
	return backup.Stored{ID: id, Host: "web", Sequence: sequence, Time: noon.Add(after)}
}

// The clock ran ahead by a year at the second backup, and behind by one at the fourth. What an earlier version, or
// another program, stored has no number.
func TestNewestFirstDoesNotRestOnTheClock(t *testing.T) {
	const year = 365 * 24 * time.Hour
	want := []backup.Stored{
		made("fifth", 5, 4*time.Hour), made("fourth", 4, -year), made("third", 3, 2*time.Hour),
		made("second", 2, year), made("first", 1, 0),
	}
	ahead := []backup.Stored{
		made("third", 3, 2*time.Hour), made("second", 2, year), made("first", 1, time.Hour), made("unnumbered", 0, 0),
	}
	for name, want := range map[string][]backup.Stored{
		"ahead and behind":      want,
		"of an earlier version": ahead,
		"of one instant":        {made("second", 2, 0), made("first", 1, 0)},
		"of two hosts":          {{ID: "b", Host: "mail", Sequence: 1, Time: noon.Add(time.Hour)}, made("a", 7, 0)},
		"nothing":               {},
	} {
		for range 20 {
			got := slices.Clone(want)
			rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
			backup.NewestFirst(got)
			if !slices.EqualFunc(got, want, func(a, b backup.Stored) bool { return a.ID == b.ID }) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
}

func TestNextSequence(t *testing.T) {
	list := []backup.Stored{made("a", 3, 0), made("b", 0, time.Hour), {ID: "c", Host: "mail", Sequence: 9, Time: noon}}
	for host, want := range map[string]int64{"web": 4, "mail": 10, "new": 1} {
		if got := backup.NextSequence(list, host); got != want {
			t.Errorf("%s: %d, want %d", host, got, want)
		}
	}
}

// Two clocks differ by seconds: a backup made a moment ago is not one of the future.
func TestFuture(t *testing.T) {
	future := map[time.Duration]bool{-time.Hour: false, 0: false, 30 * time.Second: false, 2 * time.Minute: true}
	for after, want := range future {
		if got := made("a", 1, after).Future(noon); got != want {
			t.Errorf("%v later than now: %v", after, got)
		}
	}
}
