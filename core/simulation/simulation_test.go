package simulation

import (
	"flag"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", usualSeeds, "how many seeds are played")
	from  = flag.Uint64("from", 1, "the first seed")
)

// directory returns a directory in memory, where a sync costs nothing.
func directory(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "rewind-simulation-")
	if err != nil {
		dir, err = os.MkdirTemp("", "rewind-simulation-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// The seeds are shared out to as many workers as there are processors. The last one is another one each time.
func TestSets(t *testing.T) {
	var next atomic.Uint64
	next.Store(*from)
	for range runtime.GOMAXPROCS(0) {
		t.Run("seeds", func(t *testing.T) {
			t.Parallel()
			dir := directory(t)
			for seed := next.Add(1) - 1; seed < *from+uint64(*seeds) && !t.Failed(); seed = next.Add(1) - 1 {
				playSeed(t, seed, dir)
			}
		})
	}
	playSeed(t, uint64(time.Now().UnixNano()), directory(t))
}

// playSeed plays the story of a seed, and fails with the smallest story that fails in the same way.
func playSeed(t *testing.T, seed uint64, base string) {
	t.Helper()
	play := func(s Story, drawn bool) (Story, []Violation) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		return Play(t, s, drawn, dir)
	}
	s, violations := play(Draw(seed), true)
	if len(violations) == 0 {
		return
	}
	small := Shrink(s, func(c Story) bool {
		_, found := play(c, false)
		return len(found) > 0 && found[0].Rule == violations[0].Rule
	})
	small, again := play(small, false)
	if len(again) == 0 {
		again = violations
	}
	t.Errorf("%s\nin the story\n%s", again[0], small)
}
