package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPageAddsUpStoriesAndNamesLines(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	counts := file("counts",
		`{"stories":{"TestSets":5},"kinds":{"hangs":2,"the power fails before it":3},"seeds":{"TestSets":7}}`)
	profile := file("cover.out", "mode: set\n"+
		"go.pcc.com/rewind/core/snapset/take.go:1.1,4.2 3 1\ngo.pcc.com/rewind/core/snapset/take.go:5.1,6.2 1 0\n"+
		"go.pcc.com/rewind/core/snapset/take.go:9.1,9.2 1 0\ngo.pcc.com/rewind/core/restore/plan.go:1.1,2.2 1 0\n")
	page := filepath.Join(dir, "page.md")
	for range 2 {
		if err := write(counts, profile, page); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| TestSets | 5 | 10 | 7 |", "| the power fails before it | 3 |\n| hangs | 2 |",
		"| restore/plan.go | 0 % | not simulated yet |", "| snapset/take.go | 57 % | 5-6, 9 |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
