package simulation

import (
	"flag"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var same = flag.Int("same", 60, "how many seeds are played several times")

// A seed that failed must fail again, and so must its story when it is told by its events.
func TestStoryIsTheSameEachTime(t *testing.T) {
	for _, draw := range []func(uint64) Story{Draw, DrawRollback} {
		for seed := range uint64(*same) {
			first, _ := Play(t, draw(seed), true, directory(t))
			for drawn, from := range map[bool]Story{true: draw(seed), false: first} {
				again, _ := Play(t, from, drawn, directory(t))
				if diff := cmp.Diff(first, again); diff != "" {
					t.Errorf("seed %d, drawn %v: %s", seed, drawn, diff)
				}
			}
		}
	}
}

func TestShrinkKeepsOnlyWhatTheFailureNeeds(t *testing.T) {
	s := Draw(14) // of three volumes of five
	s.Rounds = 3
	s.Events = []Event{{Kind: Dies}, {Kind: Hangs}, {Kind: Cut}}
	small := Shrink(s, func(c Story) bool {
		return len(c.Server.Origins()) >= 2 && slices.ContainsFunc(c.Events, func(e Event) bool { return e.Kind == Hangs })
	})
	if len(small.Server.Origins()) != 2 || len(small.Events) != 1 || small.Rounds != 1 || len(small.Server.Mounted) > 0 {
		t.Error(small)
	}
}
