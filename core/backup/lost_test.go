package backup_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

func TestLostNamesPaths(t *testing.T) {
	var l backup.Lost
	if f := l.Fault(); f != nil {
		t.Fatalf("nothing is lost: %v", f)
	}
	l.Vanished("/dat/gone")
	if f := l.Fault(); f.Code != fault.SourceVanished || !strings.HasSuffix(f.Msg, ": /dat/gone") {
		t.Errorf("got %s: %v", f.Code, f)
	}
	for n := range 150 {
		l.Unreadable(fmt.Sprintf("/dat/%d", n))
	}
	l.Unreadable("/dat/0")
	f := l.Fault()
	if f.Code != fault.SourceUnreadable || !strings.HasSuffix(f.Msg, ": /dat/0, and 149 more") ||
		len(f.Facts["paths"].([]string)) != 100 {
		t.Errorf("got %s: %v, %v", f.Code, f, f.Facts)
	}
}

func TestNotStoredWarningNamesTenDirectories(t *testing.T) {
	if backup.NotStoredWarning("subvolumes of btrfs", nil) != nil {
		t.Error("a warning of nothing")
	}
	paths := slices.Repeat([]string{"/home/alice"}, 12)
	w := backup.NotStoredWarning("subvolumes of btrfs", paths)
	if len(w) != 1 || !strings.Contains(w[0], "/home/alice and 2 more;") {
		t.Errorf("%q", w)
	}
}
