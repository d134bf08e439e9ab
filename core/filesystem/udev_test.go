package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestNamesReturnsAllLinks(t *testing.T) {
	udev := t.TempDir()
	record := "S:vg00/dat\nS:disk/by-uuid/5ebb20da\nI:28845550\nE:DM_NAME=vg00-dat\nS:mapper/vg00-dat\nV:1\n"
	if err := os.WriteFile(filepath.Join(udev, "b253:0"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"/dev/vg00/dat", "/dev/disk/by-uuid/5ebb20da", "/dev/mapper/vg00-dat"}
	if got := Names(udev, dat); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := Names(udev, Dev{253, 7}); got != nil {
		t.Error(got)
	}
}
