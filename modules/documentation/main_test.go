package main

import (
	"os"
	"path/filepath"
	"testing"
)

const written = "../../plugins/modules"

// What people read is what the programs say now.
func TestDocumentationIsUpToDate(t *testing.T) {
	files := modules()
	for name, text := range files {
		got, err := os.ReadFile(filepath.Join(written, name))
		if err != nil || string(got) != text {
			t.Errorf("%s is not what the program says of itself (%v): go run ./modules/documentation plugins/modules", name, err)
		}
	}
	there, err := os.ReadDir(written)
	if err != nil || len(there) != len(files) {
		t.Errorf("%d files for %d modules: %v", len(there), len(files), err)
	}
}
