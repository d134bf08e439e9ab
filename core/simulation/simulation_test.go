package simulation

import (
	"flag"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.pcc.com/rewind/core/durable"
)

var (
	seeds = flag.Int("seeds", usualSeeds, "how many seeds are played")
	from  = flag.Uint64("from", 1, "the first seed")
	show  = flag.Bool("show", false, "print each story")
)

// stderr stays in use while os.Stderr is another file. Go would close what nothing uses any more, and with it what a
// panic or the race detector has to say.
var stderr = os.Stderr

// TestMain drops what settling writes to the log.
func TestMain(m *testing.M) {
	flag.Parse()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	os.Stderr, durable.BeforeChange = null, BeforeFile
	code := m.Run()
	os.Stderr = stderr
	if err := played.write(); err != nil {
		panic(err)
	}
	os.Exit(code)
}

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

func TestSets(t *testing.T) { search(t, Draw, *seeds) }

// search plays the stories of all seeds. They are shared out to as many workers as there are processors. The last one
// is another one each time.
func search(t *testing.T, draw func(uint64) Story, seeds int) {
	var next atomic.Uint64
	next.Store(*from)
	for range runtime.GOMAXPROCS(0) {
		t.Run("seeds", func(t *testing.T) {
			t.Parallel()
			dir := directory(t)
			for seed := next.Add(1) - 1; seed < *from+uint64(seeds) && !t.Failed(); seed = next.Add(1) - 1 {
				playSeed(t, draw(seed), dir)
			}
		})
	}
	playSeed(t, draw(uint64(time.Now().UnixNano())), directory(t))
}

// playSeed plays a story with the events that its seed draws, and fails with the smallest story that fails in the same
// way.
func playSeed(t *testing.T, drawn Story, base string) {
	t.Helper()
	play := func(s Story, drawn bool) (Story, []Violation) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		return Play(t, s, drawn, dir)
	}
	s, violations := play(drawn, true)
	test, _, _ := strings.Cut(t.Name(), "/")
	played.add(test, s)
	if *show {
		t.Log(s)
	}
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

// The story of a rollback takes three times as long as that of a set.
func TestRollbacks(t *testing.T) { search(t, DrawRollback, *seeds/3) }
