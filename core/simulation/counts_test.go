package simulation

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"sync"
	"testing"
)

var countsFile = flag.String("counts", "", "a file for how many stories were played, and how often what went wrong")

// counts is what was played, for the page.
type counts struct {
	mu      sync.Mutex
	Stories map[string]int `json:"stories"` // by test
	Kinds   map[Kind]int   `json:"kinds"`
	Seeds   map[string]int `json:"seeds"` // the last seed, by test
}

var played = counts{Stories: map[string]int{}, Kinds: map[Kind]int{}, Seeds: map[string]int{}}

func (c *counts) add(test string, s Story) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Stories[test]++
	if s.Seed < 1<<40 { // no time of day
		c.Seeds[test] = max(c.Seeds[test], int(s.Seed))
	}
	for _, e := range s.Events {
		c.Kinds[e.Kind]++
	}
}

// write writes the counts if they were asked for.
func (c *counts) write() error {
	if *countsFile == "" {
		return nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(*countsFile, append(data, '\n'), 0o644)
}

func TestCountsAddUp(t *testing.T) {
	c := counts{Stories: map[string]int{}, Kinds: map[Kind]int{}, Seeds: map[string]int{}}
	for seed := range uint64(3) {
		c.add("TestSets", Story{Seed: seed, Events: []Event{{Kind: Cut}, {Kind: Dies}, {Kind: Cut}}})
	}
	c.add("TestSets", Story{Seed: 1 << 60})
	want := map[Kind]int{Cut: 6, Dies: 3}
	if c.Stories["TestSets"] != 4 || c.Seeds["TestSets"] != 2 || !maps.Equal(c.Kinds, want) {
		t.Errorf("%+v", &c)
	}
}
