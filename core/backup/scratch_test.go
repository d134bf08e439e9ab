package backup

import (
	"os"
	"path/filepath"
	"testing"
)

// Hosts that share a place may have names that begin alike, and do not see each other's locks. Only a host's own Rooms
// are removed.
func TestRoomsOfOtherHostsStay(t *testing.T) {
	dir := t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	own := "rewind-presenting-" + host + "-12345"
	others := []string{
		"rewind-presenting-" + host + "-1-12345", "rewind-presenting-" + host + "-", "rewind-presenting-" + host + "-x1",
		"rewind-presenting-" + host + "12345", "x-" + own,
	}
	for _, name := range append(others, own) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := SettleRooms(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("it is not a Room of %s: %v", host, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, own)); err == nil {
		t.Errorf("%s is left", own)
	}
	room, err := NewRoom(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !isOwnRoom(filepath.Base(room.Path)) {
		t.Errorf("%s is not taken for a Room of %s", room.Path, host)
	}
	if err := room.Close(); err != nil {
		t.Error(err)
	}
}
